// The kernel-free 3-D view: draws the k3d snapshot of a `dnet_lib.viz.Scene`, turns every shape about its own centre
// and plays a chain. It runs inside the scene's iframe; a WebGL context lives only while the view is on the screen.
(function () {
  'use strict';
  const scene = JSON.parse(document.getElementById('scene').textContent);
  const frame = window.frameElement;
  const start = { yaw: scene.yaw, pitch: scene.pitch, zoom: 1 };
  let pose = { ...start };
  let k3d = null; // the living k3d instance, null while the view is off the screen
  let visible = false;
  let opening = false;
  let step = 0;
  let timer = null;

  const style = document.createElement('style');
  style.textContent = `
    html, body { margin: 0; height: 100%; overflow: hidden; background: transparent; color: var(--ink); }
    body { display: flex; flex-direction: column; font: 13px/1.3 system-ui, sans-serif; --ink: #2b3440; }
    #view { position: relative; flex: 1; min-height: 0; touch-action: pan-y; cursor: grab; }
    #view:active { cursor: grabbing; }
    #view:focus-visible, button:focus-visible, input:focus-visible { outline: 2px solid ${scene.accent}; outline-offset: -2px; }
    #canvas { position: absolute; inset: 0; pointer-events: none; }
    #canvas canvas { display: block; }
    .caption { position: absolute; transform: translateX(-50%); white-space: nowrap; pointer-events: none; }
    #bar { display: flex; gap: .7em; align-items: center; height: ${scene.bar}px; padding: 0 .8em; flex: none; }
    #bar input { flex: 1; min-width: 0; accent-color: ${scene.accent}; cursor: pointer; }
    #bar button { width: 30px; height: 30px; border: 0; border-radius: 50%; cursor: pointer; color: #fff; background: ${scene.accent};
                  display: grid; place-items: center; padding: 0; }
    #bar svg { width: 12px; height: 12px; fill: #fff; }
    #bar output { min-width: ${scene.steps ? Math.max(...scene.steps.map((s) => s.length)) * 0.56 : 0}em; text-align: right;
                  white-space: nowrap; font-variant-numeric: tabular-nums; }`;
  document.head.append(style);

  const element = (tag, attributes, parent) => {
    const node = Object.assign(document.createElement(tag), attributes);
    parent.append(node);
    return node;
  };
  const view = element('div', { id: 'view', tabIndex: 0, role: 'img' }, document.body);
  view.setAttribute('aria-label', scene.alt + '. Drag, or use the arrow keys, to turn; plus and minus to zoom.');
  const canvas = element('div', { id: 'canvas' }, view);
  const captions = (scene.captions || []).map((text) => element('div', { className: 'caption', textContent: text }, view));

  // ---- on a phone the author's height does not fit: fewer shapes a row, and the height that they need
  function fit() {
    const width = view.clientWidth, label = captions.length ? scene.label : 0;
    if (!frame || !width) return;
    const box = frame.parentElement;
    box.dataset.height = box.dataset.height || box.style.height;
    const columns = Math.min(scene.columns || Math.min(8, Math.floor(width / 85)), scene.shapes);
    const scale = Math.min(width / columns / scene.cell[0], scene.tall / scene.cell[1]);
    const height = Math.ceil(scene.shapes / columns) * (scale * scene.cell[1] + label) + 12 + scene.bar;
    box.style.height = width < 600 ? Math.ceil(height) + 'px' : box.dataset.height;
  }

  // ---- where the shapes stand: the columns that let them be drawn largest, or the author's columns
  function layout() {
    const width = view.clientWidth, height = view.clientHeight, label = captions.length ? scene.label : 0;
    let best = null;
    for (let columns = 1; columns <= scene.shapes; columns++) {
      if (scene.columns && columns !== Math.min(scene.columns, scene.shapes)) continue;
      const rows = Math.ceil(scene.shapes / columns);
      const scale = Math.min(width / columns / scene.cell[0], (height / rows - label) / scene.cell[1]);
      if (!best || scale > best.scale * 1.001) best = { columns, rows, scale };
    }
    best.across = Math.min(width / best.columns, best.scale * scene.cell[0] * 1.25);
    best.down = best.scale * scene.cell[1] + label;
    best.centre = (i) => [((i % best.columns) - (best.columns - 1) / 2) * best.across,
                          (Math.floor(i / best.columns) - (best.rows - 1) / 2) * best.down - label / 2];
    return { ...best, width, height };
  }

  function place() {
    if (!k3d) return;
    const { width, height, scale, centre, down } = layout();
    if (!(scale > 0)) return;
    const a = pose.pitch * Math.PI / 360, b = pose.yaw * Math.PI / 360;
    const turn = [Math.sin(a) * Math.cos(b), -Math.sin(a) * Math.sin(b), Math.cos(a) * Math.sin(b), Math.cos(a) * Math.cos(b)];
    for (const shape of k3d.getWorld().K3DObjects.children) {
      const [x, y] = centre((shape.K3DIdentifier - 1) % scene.shapes);
      shape.quaternion.set(...turn);
      shape.position.setScalar(scene.corner).applyQuaternion(shape.quaternion);
      if (groups.length) shape.visible = alone === null || shape.K3DIdentifier - 1 === alone;
      shape.position.x += x / scale;
      shape.position.z -= y / scale;
      shape.updateMatrixWorld();
    }
    captions.forEach((caption, i) => {
      const [x, y] = centre(i);
      caption.style.left = width / 2 + x + 'px';
      caption.style.top = height / 2 + y + down / 2 - 10 + 'px';
    });
    const distance = Math.max(width, height) / scale / 2 / Math.tan(scene.angle * Math.PI / 360);
    k3d.setCamera([0, -distance, 0, 0, 0, 0, 0, 0, 1]);
    k3d.getWorld().setupCamera(null, 360 / Math.PI * Math.atan(height / scale / 2 / distance / pose.zoom));
  }

  // ---- a legend: a click on a group shows it alone, a second click all of them
  const groups = [...document.querySelectorAll('[data-group]')];
  let alone = null;
  groups.forEach((button, i) => {
    button.onclick = () => {
      alone = alone === i ? null : i;
      groups.forEach((other, j) => {
        other.setAttribute('aria-pressed', String(j === alone));
        other.style.opacity = alone === null || alone === j ? 1 : 0.4;
      });
      redraw();
    };
  });

  function redraw() {
    place();
    if (k3d) k3d.render();
  }

  function paint() { // the page's theme decides the colours
    const paper = frame ? parent.getComputedStyle(frame.parentElement) : getComputedStyle(document.documentElement);
    const rgb = (paper.backgroundColor.match(/[\d.]+/g) || [246, 247, 249]).map(Number);
    document.body.style.setProperty('--ink', 0.3 * rgb[0] + 0.6 * rgb[1] + 0.1 * rgb[2] < 128 ? '#d5dbe3' : '#2b3440');
    if (k3d) {
      k3d.setClearColor((rgb[0] << 16) + (rgb[1] << 8) + rgb[2]);
      k3d.render();
    }
  }

  // ---- k3d's bundle is one named AMD module, so this is all the AMD it needs
  function library() {
    if (window.k3dLibrary) return Promise.resolve(window.k3dLibrary);
    window.define = (name, _, make) => { if (name === 'k3d') window.k3dLibrary = make(); };
    return new Promise((done, failed) => {
      const script = element('script', { src: window.dnetRoot + 'standalone.js', charset: 'utf-8' }, document.head);
      script.onload = () => done(window.k3dLibrary);
      script.onerror = () => failed(new Error('standalone.js is missing beside the page'));
    });
  }

  async function open() {
    if (k3d || opening) return;
    opening = true;
    try {
      console.log = () => {}; // k3d reports every object it loads
      const lib = await library();
      if (!visible) return;
      const bytes = Uint8Array.from(atob(scene.data), (c) => c.charCodeAt(0));
      const born = await lib.CreateK3DAndLoadBinarySnapshot(bytes, canvas);
      if (!visible) { born.disable(); return close(); }
      k3d = window.K3DInstance = born;
      k3d.on(k3d.events.OBJECT_LOADED, place);
      k3d.on(k3d.events.RESIZED, redraw);
      const { keyLight } = k3d.getWorld();
      if (keyLight) keyLight.position.set(...scene.light);
      paint();
      await k3d.setTime(step);
      redraw();
      document.body.dataset.ready = 'yes';
    } catch (error) { // no WebGL, or no bundle beside the page: the picture under this frame stays
      close();
      console.warn('3-D view: ' + error.message);
    } finally {
      opening = false;
    }
  }

  function close() {
    stop();
    delete document.body.dataset.ready;
    if (k3d) k3d.disable();
    k3d = window.K3DInstance = null;
    canvas.replaceChildren();
    canvas.removeAttribute('style'); // the picture under this frame shows again
  }

  // ---- the chain
  const icons = { play: '<svg viewBox="0 0 12 12"><path d="M2.5 0.5 11 6 2.5 11.5z"/></svg>',
                  pause: '<svg viewBox="0 0 12 12"><path d="M1.5 1h3.2v10H1.5zM7.3 1h3.2v10H7.3z"/></svg>' };
  let slider, button, readout, busy = false;

  async function show(next) {
    step = next;
    slider.value = step;
    readout.textContent = scene.steps[step];
    slider.setAttribute('aria-valuetext', scene.steps[step]);
    if (!k3d || busy) return;
    busy = true;
    for (let drawn = null; k3d && drawn !== step;) {
      drawn = step;
      await k3d.setTime(drawn);
    }
    busy = false;
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    if (button) { button.innerHTML = icons.play; button.setAttribute('aria-label', 'Play'); }
  }

  function play() {
    if (timer) return stop();
    button.innerHTML = icons.pause;
    button.setAttribute('aria-label', 'Pause');
    const last = scene.steps.length - 1;
    if (step === last) show(0);
    timer = setInterval(() => {
      if (busy) return;
      show(step + 1);
      if (step === last) stop();
    }, scene.delay);
  }

  if (scene.steps) {
    const bar = element('div', { id: 'bar' }, document.body);
    button = element('button', { type: 'button', onclick: play }, bar);
    slider = element('input', { type: 'range', min: 0, max: scene.steps.length - 1, step: 1, value: 0,
                                oninput: () => { stop(); show(+slider.value); } }, bar);
    slider.setAttribute('aria-label', 'Step of the chain');
    readout = element('output', {}, bar);
    stop();
    show(0);
  }

  // ---- turning: a mouse turns freely, a finger turns sideways and still scrolls the page
  function turn(yaw, pitch) {
    pose.yaw += yaw;
    pose.pitch = Math.max(-90, Math.min(90, pose.pitch + pitch));
    redraw();
  }
  let grip = null;
  view.onpointerdown = (event) => {
    view.setPointerCapture(event.pointerId);
    grip = [event.clientX, event.clientY];
  };
  view.onpointermove = (event) => {
    if (!grip || !view.hasPointerCapture(event.pointerId)) return;
    turn((event.clientX - grip[0]) * 0.5, (event.clientY - grip[1]) * 0.5);
    grip = [event.clientX, event.clientY];
  };
  view.ondblclick = () => { pose = { ...start }; redraw(); };
  view.onkeydown = (event) => {
    const moves = { ArrowLeft: [-10, 0], ArrowRight: [10, 0], ArrowUp: [0, -10], ArrowDown: [0, 10] };
    if (moves[event.key]) turn(...moves[event.key]);
    else if (event.key === '+' || event.key === '=') { pose.zoom *= 1.15; redraw(); }
    else if (event.key === '-') { pose.zoom /= 1.15; redraw(); }
    else if (event.key === 'Home') view.ondblclick();
    else return;
    event.preventDefault();
  };
  view.addEventListener('wheel', (event) => { // a plain wheel scrolls the page
    if (!event.ctrlKey) return;
    event.preventDefault();
    pose.zoom *= Math.exp(-event.deltaY / 300);
    redraw();
  }, { passive: false });

  paint();
  fit();
  addEventListener('resize', fit);
  if (frame) {
    new MutationObserver(paint).observe(parent.document.documentElement, { attributeFilter: ['data-theme'] });
  }
  new (frame ? parent : window).IntersectionObserver((entries) => {
    visible = entries[entries.length - 1].isIntersecting;
    if (visible) open();
    else close();
  }, { rootMargin: '120px' }).observe(frame || view);
})();
