'use strict';
const figures = JSON.parse(document.getElementById('figures').textContent);
const places = [...document.querySelectorAll('.figure')];
const dark = matchMedia('(prefers-color-scheme: dark)');
const touch = matchMedia('(pointer: coarse)');
const drawn = new Set();
function template() {
  const style = getComputedStyle(document.documentElement);
  const colour = name => style.getPropertyValue(name).trim();
  const axis = {gridcolor: colour('--line'), linecolor: colour('--line'),
    zerolinecolor: colour('--line'), automargin: true, title: {standoff: 8}};
  return {layout: {
    font: {color: colour('--fg'), size: 12, family: getComputedStyle(document.body).fontFamily},
    paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', xaxis: axis, yaxis: axis,
    hoverlabel: {bgcolor: colour('--soft'), font: {color: colour('--fg')}, align: 'left'},
    annotationdefaults: {font: {color: colour('--muted'), size: 11}},
    margin: {l: 48, r: 12, t: 28, b: 40}, hovermode: 'closest',
    legend: {orientation: 'h', y: -0.22, x: 0}}};
}
function draw(place) {
  drawn.add(place);
  const {data, layout} = figures[places.indexOf(place)];
  Plotly.react(place, data, {...layout, template: template(),
    dragmode: touch.matches ? false : 'zoom'}, {responsive: true, displayModeBar: false});
}
const near = new IntersectionObserver(seen => seen.forEach(one => {
  if (one.isIntersecting && !drawn.has(one.target)) draw(one.target);
}), {rootMargin: '800px'});
places.forEach(place => near.observe(place));
dark.addEventListener('change', () => drawn.forEach(draw));
addEventListener('beforeprint', () => places.forEach(draw));
