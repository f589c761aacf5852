// The images of a question, which are zoomed and moved together. Places are in parts of the stage, so sizes do not matter.

const MOST_ZOOM = 8;
const view = { zoom: 1, x: 0, y: 0 };

function showImages(trial, position) {
  const stages = document.getElementById("stages");
  stages.replaceChildren(...trial.pictures.map((picture, index) => stageOf(trial, picture, index, position)));
  resetView();
}

function stageOf(trial, picture, index, position) {
  const figure = document.createElement("figure");
  const stage = document.createElement("div");
  const image = document.createElement("img");
  const side = trial.pictures.length === 1 ? "Image" : ["Left image", "Right image"][index];
  image.alt = `${side} of question ${position + 1}`;
  image.src = picture;
  image.draggable = false;
  [image.height, image.width] = study.size;
  stage.className = "stage";
  stage.tabIndex = 0;
  stage.setAttribute("role", "group");
  stage.setAttribute("aria-label", `${side}: plus and minus zoom, arrow keys move`);
  stage.append(image);
  stage.addEventListener("wheel", (event) => onWheel(event, stage), { passive: false });
  stage.addEventListener("pointerdown", (event) => onGrab(event, stage));
  stage.addEventListener("keydown", onArrow);
  figure.append(stage);
  if (trial.pictures.length > 1) {
    const caption = document.createElement("figcaption");
    caption.textContent = side;
    figure.append(caption);
  }
  return figure;
}

function resetView() {
  Object.assign(view, { zoom: 1, x: 0, y: 0 });
  applyView();
}

// Zoom about a point of the stage, which stays where it is.
function zoomTo(zoom, x = 0.5, y = 0.5) {
  const wanted = Math.min(MOST_ZOOM, Math.max(1, zoom));
  view.x = x - ((x - view.x) * wanted) / view.zoom;
  view.y = y - ((y - view.y) * wanted) / view.zoom;
  view.zoom = wanted;
  applyView();
}

function moveBy(x, y) {
  view.x += x;
  view.y += y;
  applyView();
}

function applyView() {
  view.x = Math.min(0, Math.max(1 - view.zoom, view.x));
  view.y = Math.min(0, Math.max(1 - view.zoom, view.y));
  for (const image of document.querySelectorAll(".stage img")) {
    image.style.transform = `translate(${100 * view.x}%, ${100 * view.y}%) scale(${view.zoom})`;
  }
  document.getElementById("zoom").textContent = `${Math.round(100 * view.zoom)} %`;
}

function onWheel(event, stage) {
  if (event.ctrlKey) return; // the browser's own zoom
  event.preventDefault();
  const box = stage.getBoundingClientRect();
  zoomTo(view.zoom * 1.0015 ** -event.deltaY, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
}

function onGrab(event, stage) {
  if (event.button !== 0) return;
  const box = stage.getBoundingClientRect();
  let [x, y] = [event.clientX, event.clientY];
  const onMove = (move) => {
    moveBy((move.clientX - x) / box.width, (move.clientY - y) / box.height);
    [x, y] = [move.clientX, move.clientY];
  };
  stage.setPointerCapture(event.pointerId);
  stage.addEventListener("pointermove", onMove);
  for (const end of ["pointerup", "pointercancel"]) {
    stage.addEventListener(end, () => stage.removeEventListener("pointermove", onMove), { once: true });
  }
}

function onArrow(event) {
  const moves = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] };
  if (!Object.hasOwn(moves, event.key) || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  moveBy(...moves[event.key]);
}
