// The interactive view of the landing page: draws from sprites that docs/site/view.py made.
(() => {
  "use strict";
  const data = window.VIEW_DATA;
  const find = (id) => document.getElementById(id);
  if (!data || !find("view")) return;
  const COLOURS = ["#0072B2", "#E69F00", "#FFFFFF"]; // of the experts, with a letter each
  const LETTERS = ["G", "L", ""];
  const SHOWN = 256; // pixels of a panel
  const sprites = data.images.map(() => null);
  let asked = 0;

  function chosen() {
    const image = Number(document.querySelector("input[name=view-image]:checked").value);
    return { image, level: Number(find("view-level").value) };
  }

  function sprite(number) {
    sprites[number] ??= new Promise((resolve, reject) => {
      const picture = new Image();
      picture.onload = () => resolve(picture);
      picture.onerror = () => reject(new Error(`${picture.src} cannot be read`));
      picture.src = `_static/${data.images[number].name}.png`;
    });
    return sprites[number];
  }

  function canvas(id, label) {
    const element = find(id);
    element.width = element.height = SHOWN;
    element.setAttribute("aria-label", label);
    find(`${id}-text`).textContent = label;
    const context = element.getContext("2d");
    context.imageSmoothingEnabled = false;
    return context;
  }

  function drawMap(context, picture, side, row, codes) {
    context.filter = "grayscale(1) brightness(0.75)";
    context.drawImage(picture, side, row * side, side, side, 0, 0, SHOWN, SHOWN);
    context.filter = "none";
    const across = Math.round(Math.sqrt(codes.length));
    const step = SHOWN / across;
    context.font = `bold ${Math.min(22, step * 0.55)}px sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    [...codes].forEach((code, place) => {
      const x = (place % across) * step;
      const y = Math.floor(place / across) * step;
      context.globalAlpha = code === "2" ? 0 : 0.45;
      context.fillStyle = COLOURS[code];
      context.fillRect(x, y, step, step);
      context.globalAlpha = 1;
      context.strokeStyle = "rgba(255, 255, 255, 0.6)";
      context.strokeRect(x + 0.5, y + 0.5, step - 1, step - 1);
      context.fillStyle = "#FFFFFF";
      context.fillText(LETTERS[code], x + step / 2, y + step / 2);
    });
  }

  function share(codes, expert) {
    return [...codes].filter((code) => Number(code) === expert).length;
  }

  async function draw() {
    const { image, level } = chosen();
    const turn = ++asked;
    const entry = data.images[image];
    const found = entry.levels[level];
    const slider = find("view-level");
    slider.setAttribute("aria-valuetext", `standard deviation ${found.sigma}`);
    find("view-level-text").textContent = `σ = ${found.sigma}`;
    const picture = await sprite(image);
    if (turn !== asked) return; // a later choice overtook this one
    const side = entry.side;
    const panels = [
      ["view-noisy", `noisy, ${found.noisy.toFixed(1)} dB`, 0, level],
      ["view-denoised", `denoised, ${found.denoised.toFixed(1)} dB`, 1, level],
      ["view-clean", "clean", 0, entry.levels.length],
    ];
    for (const [id, label, column, row] of panels) {
      canvas(id, label).drawImage(picture, column * side, row * side, side, side, 0, 0, SHOWN, SHOWN);
    }
    const block = Number(document.querySelector("input[name=view-block]:checked")?.value ?? 0);
    const codes = found.maps[block];
    const counts = data.experts.map((name, expert) => `${name}: ${share(codes, expert)}`);
    drawMap(canvas("view-map", `experts of ${codes.length} windows${found.maps.length > 1 ? `, block ${block + 1}` : ""}`), picture, side, level, codes);
    find("view-legend").replaceChildren(
      ...counts.map((text, expert) => {
        const item = document.createElement("li");
        const swatch = document.createElement("span");
        swatch.className = "swatch";
        swatch.style.background = expert === 2 ? "#777777" : COLOURS[expert];
        item.append(swatch, `${text} window${share(codes, expert) === 1 ? "" : "s"}`);
        return item;
      }),
    );
    const gain = (found.denoised - found.noisy).toFixed(1);
    find("view-status").textContent =
      `Picture of ${entry.label} at noise ${found.sigma}: ${found.noisy.toFixed(1)} dB noisy, ` +
      `${found.denoised.toFixed(1)} dB denoised, ${gain} dB gained. Windows: ${counts.join(", ")}.`;
  }

  find("view").addEventListener("input", draw);
  draw();
})();
