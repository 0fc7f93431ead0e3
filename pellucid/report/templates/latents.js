// Without this script the frames of each latent stand side by side.
(() => {
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  const FRAME = 160;
  const CATEGORY = 650;

  for (const latent of document.querySelectorAll(".latent")) {
    const steps = JSON.parse(latent.dataset.steps);
    const loops = latent.dataset.loops === "true";
    const slider = latent.querySelector("input");
    const output = latent.querySelector("output");
    const play = latent.querySelector(".play");
    const name = play.getAttribute("aria-label").replace(/^Play /, "");
    let timer = 0;
    let way = 1;

    const show = (step) => {
      slider.value = step;
      slider.setAttribute("aria-valuetext", steps[step]);
      output.textContent = steps[step];
      latent.style.setProperty("--step", step);
    };
    const stop = () => {
      clearInterval(timer);
      timer = 0;
      play.classList.remove("playing");
      play.setAttribute("aria-label", "Play " + name);
    };
    const next = () => {
      const last = steps.length - 1;
      let step = Number(slider.value) + way;
      if (loops) step = step > last ? 0 : step;
      else if (step < 0 || step > last) {
        way = -way;
        step = Math.min(Math.max(Number(slider.value) + way, 0), last);
      }
      show(step);
    };

    slider.addEventListener("input", () => {
      stop();
      show(Number(slider.value));
    });
    play.addEventListener("click", () => {
      if (timer) return stop();
      timer = setInterval(next, loops ? CATEGORY : FRAME);
      play.classList.add("playing");
      play.setAttribute("aria-label", "Pause " + name);
    });
    // Who asks for less motion moves the slider by hand.
    const calm = () => {
      play.hidden = still.matches || steps.length < 2;
      if (still.matches) stop();
    };
    still.addEventListener("change", calm);
    calm();
    show(Number(slider.value));
  }
  for (const part of document.querySelectorAll("#latents .steer")) part.hidden = false;
  for (const group of document.querySelectorAll(".latents")) group.classList.add("moving");
})();
