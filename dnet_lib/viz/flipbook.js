// One flip-book: every control moves through the pictures, the play button runs through one control.
(function (box) {
  'use strict';
  const pictures = JSON.parse(box.querySelector('script[type="application/json"]').textContent);
  const image = box.querySelector('img'), button = box.querySelector('button'), about = image.alt;
  const controls = Array.from(box.querySelectorAll('[data-control]'));
  const count = (control) => (control.options ? control.options.length : +control.max + 1);
  let timer = null;

  function draw() {
    let place = 0;
    const chosen = controls.map((control) => {
      place = place * count(control) + +control.value;
      const text = JSON.parse(control.dataset.texts)[+control.value];
      if (!control.options) {
        control.nextElementSibling.textContent = text;
        control.setAttribute('aria-valuetext', text);
      }
      return control.dataset.control + ' ' + text;
    });
    image.src = pictures[place];
    image.alt = about + ' (' + chosen.join(', ') + ')';
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    if (!button) return;
    button.textContent = '\u25b6';
    button.setAttribute('aria-label', 'Play');
  }

  function play() {
    const control = box.querySelector('[data-play]'), last = count(control) - 1;
    if (timer) return stop();
    if (+control.value === last) control.value = 0;
    draw();
    button.textContent = '\u275a\u275a';
    button.setAttribute('aria-label', 'Pause');
    timer = setInterval(() => {
      if (!box.isConnected || +control.value === last) return stop();
      control.value = +control.value + 1;
      draw();
    }, Math.max(100, Math.min(700, 6000 / (last + 1))));
  }

  for (const control of controls) {
    control.value = 0; // a browser may remember another page's place
    control.oninput = () => { stop(); draw(); };
  }
  if (button) button.onclick = play;
  draw();
})(document.currentScript.parentElement);
