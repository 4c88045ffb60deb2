// The board that a mask is painted on: brush, eraser, ellipse; drag, scale and turn what is painted. gradio's editor
// has no ellipse and does not move what is painted. The value of the component is a PNG of colours on nothing.
const SIDE = 512;
const find = (name) => element.querySelector(name);
const board = find(".board"), paint = find(".paint"), over = find(".over");
const ink = paint.getContext("2d", { willReadFrequently: true }), top_ = over.getContext("2d");
const classes = JSON.parse(props.classes);
let tool = "brush", colour = classes[0].colour, from = null, grip = null, before = null, sent = null;
const undo = [];

for (const each of classes) {
  const button = document.createElement(classes.length > 1 ? "button" : "span");
  button.innerHTML = "<span class='dot'></span> ";
  button.firstChild.style.background = each.colour;
  button.append(each.name);
  if (classes.length > 1) {
    button.type = "button";
    button.setAttribute("aria-pressed", String(each.colour === colour));
    button.addEventListener("click", () => {
      colour = each.colour;
      for (const other of find(".colours").children) other.setAttribute("aria-pressed", String(other === button));
    });
  }
  find(".colours").append(button);
}

const copy = () => {
  const made = document.createElement("canvas");
  made.width = made.height = SIDE;
  made.getContext("2d").drawImage(paint, 0, 0);
  return made;
};
const box = () => {  // of what is painted: [left, top, right, bottom, pixels]
  const data = ink.getImageData(0, 0, SIDE, SIDE).data;
  let found = [SIDE, SIDE, -1, -1, 0];
  for (let i = 3, at = 0; at < SIDE * SIDE; i += 4, at++) {
    if (data[i] < 128) continue;
    const x = at % SIDE, y = (at / SIDE) | 0;
    if (x < found[0]) found[0] = x;
    if (y < found[1]) found[1] = y;
    if (x > found[2]) found[2] = x;
    if (y > found[3]) found[3] = y;
    found[4]++;
  }
  return found;
};
const place = (event) => {
  const rect = over.getBoundingClientRect();
  return [((event.clientX - rect.left) * SIDE) / rect.width, ((event.clientY - rect.top) * SIDE) / rect.height];
};
const remember = () => { undo.push(copy()); if (undo.length > 25) undo.shift(); };
const replace = (picture, change) => {
  ink.globalCompositeOperation = "source-over";
  ink.setTransform(1, 0, 0, 1, 0, 0);
  ink.clearRect(0, 0, SIDE, SIDE);
  if (change) change();
  if (picture) ink.drawImage(picture, 0, 0);
  ink.setTransform(1, 0, 0, 1, 0, 0);
};
const transformed = (picture, centre, move, scale, turn) => replace(picture, () => {
  ink.imageSmoothingEnabled = false;
  ink.translate(centre[0] + move[0], centre[1] + move[1]);
  ink.rotate(turn);
  ink.scale(scale, scale);
  ink.translate(-centre[0], -centre[1]);
});

function show() {
  const [left, up, right, down, count] = box();
  find(".hint").style.display = count ? "none" : "";
  find(".share").textContent = count ? `${((100 * count) / (SIDE * SIDE)).toFixed(1)} % of the image` : "nothing painted";
  top_.clearRect(0, 0, SIDE, SIDE);
  over.style.cursor = tool === "move" ? "grab" : "crosshair";
  if (tool !== "move" || !count) return;
  top_.strokeStyle = "white";
  top_.fillStyle = "white";
  top_.lineWidth = 2;
  top_.setLineDash([7, 6]);
  top_.strokeRect(left, up, right - left, down - up);
  top_.setLineDash([]);
  for (const [x, y] of handles(left, up, right, down)) {
    top_.beginPath();
    top_.arc(x, y, 10, 0, 7);
    top_.fill();
  }
}
// Where what is painted is scaled and where it is turned: the lower right corner, and above the middle.
const inside = (value) => Math.min(SIDE - 12, Math.max(12, value));
const handles = (left, up, right, down) => [[inside(right), inside(down)], [inside((left + right) / 2), inside(up - 26)]];

function send() {
  show();
  sent = box()[4] ? paint.toDataURL("image/png") : "";
  props.value = sent;
  trigger("change");
}

function stroke(a, b) {
  ink.globalCompositeOperation = tool === "eraser" ? "destination-out" : "source-over";
  ink.strokeStyle = ink.fillStyle = colour;
  ink.lineCap = "round";
  ink.lineWidth = Number(find(".size input").value);
  ink.beginPath();
  ink.moveTo(...a);
  ink.lineTo(b[0] + 0.01, b[1]);
  ink.stroke();
  ink.globalCompositeOperation = "source-over";
}

function begin(event) {
  if (event.button > 0) return;
  event.preventDefault();
  board.focus({ preventScroll: true });
  over.setPointerCapture(event.pointerId);
  from = place(event);
  remember();
  before = undo[undo.length - 1];
  if (tool === "brush" || tool === "eraser") stroke(from, from);
  if (tool === "move") {
    const [left, up, right, down, count] = box();
    if (!count) { from = null; undo.pop(); return; }
    const near = handles(left, up, right, down).map(([x, y]) => Math.hypot(x - from[0], y - from[1]) < 26);
    grip = { kind: near[0] ? "scale" : near[1] ? "turn" : "drag", centre: [(left + right) / 2, (up + down) / 2] };
  }
}

function move(event) {
  if (!from) return;
  const to = place(event);
  if (tool === "brush" || tool === "eraser") {
    for (const each of event.getCoalescedEvents?.() ?? []) { const at = place(each); stroke(from, at); from = at; }
    stroke(from, to);
    from = to;
  } else if (tool === "ellipse") {
    replace(before);
    ink.fillStyle = colour;
    ink.beginPath();
    ink.ellipse((from[0] + to[0]) / 2, (from[1] + to[1]) / 2, Math.abs(to[0] - from[0]) / 2, Math.abs(to[1] - from[1]) / 2, 0, 0, 7);
    ink.fill();
  } else if (grip.kind === "drag") {
    transformed(before, grip.centre, [to[0] - from[0], to[1] - from[1]], 1, 0);
  } else {
    const away = (at) => [at[0] - grip.centre[0], at[1] - grip.centre[1]];
    const [a, b] = [away(from), away(to)];
    if (grip.kind === "scale") {
      transformed(before, grip.centre, [0, 0], Math.min(6, Math.max(0.15, Math.hypot(...b) / Math.max(8, Math.hypot(...a)))), 0);
    } else transformed(before, grip.centre, [0, 0], 1, Math.atan2(b[1], b[0]) - Math.atan2(a[1], a[0]));
  }
  if (tool !== "brush" && tool !== "eraser") show();
}

function end() {
  if (!from) return;
  from = null;
  send();
}

over.addEventListener("pointerdown", begin);
over.addEventListener("pointermove", move);
over.addEventListener("pointerup", end);
over.addEventListener("pointercancel", end);
for (const button of element.querySelectorAll("[data-tool]"))
  button.addEventListener("click", () => {
    tool = button.dataset.tool;
    for (const other of element.querySelectorAll("[data-tool]")) other.setAttribute("aria-pressed", String(other === button));
    show();
  });
find("[data-do=undo]").addEventListener("click", () => { if (undo.length) { replace(undo.pop()); send(); } });
find("[data-do=clear]").addEventListener("click", () => { remember(); replace(null); send(); });
board.addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: [-6, 0], ArrowRight: [6, 0], ArrowUp: [0, -6], ArrowDown: [0, 6] }[event.key];
  const scale = { "+": 1.06, "=": 1.06, "-": 1 / 1.06 }[event.key];
  const turn = { "[": -0.08, "]": 0.08 }[event.key];
  if (event.key === "z" && (event.ctrlKey || event.metaKey)) find("[data-do=undo]").click();
  else if (moves || scale || turn) {
    const [left, up, right, down, count] = box();
    if (!count) return;
    remember();
    transformed(undo[undo.length - 1], [(left + right) / 2, (up + down) / 2], moves ?? [0, 0], scale ?? 1, turn ?? 0);
    send();
  } else return;
  event.preventDefault();
});

function load(value) {
  if (value === sent) return;
  sent = value;
  if (!value) { replace(null); show(); return; }
  const picture = new Image();
  picture.onload = () => { remember(); replace(picture); show(); };
  picture.src = value;
}
watch("value", () => load(props.value || ""));
show();
load(props.value || "");
