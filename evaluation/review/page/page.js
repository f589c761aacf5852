// The three screens, and what keys and buttons do.

const PAIRED = study.mode === "pairs";
const SYNTHETIC = "In silico (made by a computer)";
const LABELS = PAIRED ? { left: "The left one", right: "The right one" } : { real: "Real", synthetic: SYNTHETIC };
const CHOICE_KEYS = PAIRED ? { left: "l", right: "r" } : { real: "r", synthetic: "s" };
const SURENESS = ["guess", "", "fairly", "", "certain"];
const FINDING_KEYS = Object.fromEntries(Object.keys(study.findings).map((name) => [name, name[0]]));
const byId = (id) => document.getElementById(id);

const FORGETFUL = "This browser keeps nothing for this page. Save to a file before you close it, and go on from that file.";

let state = null;
let since = null; // when the question was last begun to be looked at
let kept = true;
const unsaved = new Set(); // readers with answers that are in no file
let before = null; // what was said of this question when it was left, to count revisions

function show(name) {
  for (const each of ["start", "work", "end"]) byId(each).hidden = each !== name;
  byId("progress").hidden = state === null;
  if (state === null) return;
  const answered = countAnswered(state);
  byId("bar").max = study.trials.length;
  byId("bar").value = answered;
  byId("count").textContent = `${answered} of ${study.trials.length}`;
}

function say(text) {
  byId("said").textContent = text;
}

function warn(text) {
  byId("warning").textContent = text;
  byId("warning").hidden = text === "";
}

function optionOf(type, name, value, label, key) {
  const row = document.createElement("div");
  const input = document.createElement("input");
  const text = document.createElement("label");
  row.className = "option";
  Object.assign(input, { type, name, value, id: `${name}-${value}` });
  text.htmlFor = input.id;
  text.textContent = label;
  row.append(input, text);
  if (key) {
    const cap = document.createElement("kbd");
    cap.textContent = key.toUpperCase();
    cap.setAttribute("aria-hidden", "true");
    row.append(cap);
  }
  return row;
}

function buildForm() {
  byId("task").textContent = PAIRED
    ? `You will see ${study.trials.length} pairs of images of tissue. In each pair one is real and one was made by a computer: say which one was made, and how sure you are.`
    : `You will see ${study.trials.length} images of tissue, one at a time. Some are real and some were made by a computer: say of each which it is, and how sure you are.`;
  const choices = CHOICES.map((each) => optionOf("radio", "choice", each, LABELS[each], CHOICE_KEYS[each]));
  byId("choices").append(...choices);
  byId("choices").querySelector("legend").textContent = PAIRED ? "In silico (made by a computer) is" : "This image is";
  const sure = document.createElement("div");
  sure.className = "options";
  sure.append(...SURENESS.map((each, index) => {
    const row = optionOf("radio", "confidence", index + 1, `${index + 1} `);
    const word = document.createElement("small");
    word.textContent = each;
    row.querySelector("label").append(word);
    return row;
  }));
  byId("confidence").append(sure);
  byId("findings").querySelector("legend").textContent = PAIRED ? "In that image you see" : "In it you see";
  byId("findings").append(...Object.entries(study.findings).map(([name, label]) => optionOf("checkbox", "findings", name, label, FINDING_KEYS[name])));
  byId("comment").maxLength = study.longest.comment;
  byId("reader").maxLength = study.longest.name;
  const keys = [
    ...CHOICES.map((each) => [CHOICE_KEYS[each], LABELS[each]]), ["1 – 5", "how sure"],
    ...Object.entries(study.findings).map(([name, label]) => [FINDING_KEYS[name], label]),
    ["Enter", "next"], ["b", "back"], ["+ − 0", "zoom in, out, whole image"], ["arrows", "move the image, when it has the focus"],
  ];
  for (const [key, what] of keys) {
    const [term, cap, detail] = ["dt", "kbd", "dd"].map((each) => document.createElement(each));
    cap.textContent = key.length === 1 ? key.toUpperCase() : key;
    detail.textContent = what;
    term.append(cap);
    byId("keys").append(term, detail);
  }
}

function showStart() {
  state = null;
  since = null;
  const readers = keptReaders();
  byId("earlier").hidden = readers.length === 0;
  byId("readers").replaceChildren(...readers.map((each) => {
    const [row, button] = ["li", "button"].map((name) => document.createElement(name));
    button.type = "button";
    button.textContent = `Go on as ${each.reader} (${countAnswered(each)} of ${study.trials.length} answered)`;
    button.addEventListener("click", () => goOn(keptOf(each.reader) ?? each)); // others may have gone on
    row.append(button);
    return row;
  }));
  byId("file").value = "";
  show("start");
}

function goOn(found) {
  state = found;
  store();
  if (countAnswered(state) === study.trials.length) showEnd();
  else showQuestion();
}

function store() {
  kept = keep(state);
  warn(kept ? "" : FORGETFUL);
}

function showQuestion() {
  const trial = study.trials[state.at];
  const answer = answerOf(state, trial);
  before = isAnswered(answer) ? `${answer.choice} ${answer.confidence}` : null;
  show("work");
  showImages(trial, state.at);
  byId("question").textContent = `Question ${state.at + 1} of ${study.trials.length}`;
  for (const input of byId("answer").querySelectorAll("input[name]")) {
    input.checked = input.type === "checkbox" ? answer.findings.includes(input.value) : String(answer[input.name]) === input.value;
  }
  byId("comment").value = answer.comment;
  byId("missing").hidden = true;
  byId("back").setAttribute("aria-disabled", String(state.at === 0));
  byId("next").textContent = state.at === study.trials.length - 1 ? "Finish" : "Next";
  since = document.hidden ? null : performance.now();
  scrollTo(0, 0);
  byId("question").focus({ preventScroll: true });
}

function showEnd() {
  since = null;
  show("end");
  byId("done").focus();
}

// Take over what the form says.
function record() {
  const answer = answerOf(state, study.trials[state.at]);
  const chosen = (name) => byId("answer").querySelector(`input[name=${name}]:checked`);
  answer.choice = chosen("choice") ? chosen("choice").value : null;
  answer.confidence = chosen("confidence") ? Number(chosen("confidence").value) : null;
  answer.findings = [...byId("answer").querySelectorAll("input[name=findings]:checked")].map((each) => each.value);
  answer.comment = byId("comment").value.slice(0, study.longest.comment);
  if (since !== null) {
    const now = performance.now();
    answer.seconds = Math.round(100 * answer.seconds + (now - since) / 10) / 100;
    since = now;
  }
  unsaved.add(state.reader);
  store();
  show("work");
}

function leave() {
  record();
  const answer = answerOf(state, study.trials[state.at]);
  const now = isAnswered(answer) ? `${answer.choice} ${answer.confidence}` : null;
  if (before !== null && now !== null && before !== now) answer.revisions += 1;
  before = now ?? before;
  store();
}

function next() {
  leave();
  const answer = answerOf(state, study.trials[state.at]);
  if (!isAnswered(answer)) {
    const name = answer.choice === null ? "choice" : "confidence";
    byId("missing").textContent = name === "choice" ? "Please choose an answer first." : "Please say how sure you are first.";
    byId("missing").hidden = false;
    byId("answer").querySelector(`input[name=${name}]`).focus();
    return;
  }
  if (state.at < study.trials.length - 1) {
    state.at += 1;
    store();
    showQuestion();
  } else if (countAnswered(state) === study.trials.length) showEnd();
  else goToFirstOpen();
}

function goToFirstOpen() {
  state.at = study.trials.findIndex((trial) => !isAnswered(state.answers.get(trial.id)));
  store();
  showQuestion();
  say("This question was left open.");
}

function back() {
  if (state.at === 0) return;
  leave();
  state.at -= 1;
  store();
  showQuestion();
}

function save() {
  if (!byId("work").hidden) record();
  const name = download(state);
  unsaved.delete(state.reader);
  store();
  say(`Saved as ${name}.`);
}

async function onFile(event) {
  const file = event.target.files[0];
  if (!file) return;
  try {
    if (file.size > 2 ** 26) throw new Error("This file is too large for answers.");
    let content = null;
    try {
      content = JSON.parse(await file.text());
    } catch {
      throw new Error("This file cannot be read as JSON.");
    }
    const found = fromFile(content);
    const here = keptOf(found.reader);
    const more = here !== null && countAnswered(here) > countAnswered(found);
    if (more && !confirm(`This browser has more answers of ${found.reader} than the file. Take the file instead?`)) return;
    goOn(found);
  } catch (error) {
    warn(error.message);
  } finally {
    event.target.value = "";
  }
}

function onKey(event) {
  if (byId("work").hidden || event.ctrlKey || event.altKey || event.metaKey || !byId("shortcuts").checked) return;
  const target = event.target;
  if (target.matches("textarea, input[type=text]")) return;
  const key = event.key.toLowerCase();
  const inputs = [
    ...CHOICES.map((each) => [CHOICE_KEYS[each], `choice-${each}`]),
    ...SURENESS.map((_, index) => [String(index + 1), `confidence-${index + 1}`]),
    ...Object.entries(FINDING_KEYS).map(([name, each]) => [each, `findings-${name}`]),
  ];
  const found = inputs.find(([each]) => each === key);
  if (found) {
    if (target.matches("button")) target.blur(); // else Enter would press it again instead of going on
    byId(found[1]).click();
  } else if (key === "enter" && !target.matches("button, summary")) next();
  else if (key === "b") back();
  else if (key === "+" || key === "=") zoomTo(view.zoom * 1.4);
  else if (key === "-" || key === "−") zoomTo(view.zoom / 1.4);
  else if (key === "0") resetView();
  else return;
  event.preventDefault();
}

function listen() {
  byId("begin").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = cleanName(byId("reader").value);
    if (!name) {
      warn("Please give a name or a code first.");
      byId("reader").focus();
      return;
    }
    warn("");
    goOn(keptOf(name) ?? newState(name));
  });
  byId("answer").addEventListener("submit", (event) => { event.preventDefault(); next(); });
  byId("answer").addEventListener("input", (event) => { if (event.target.id === "shortcuts") return; byId("missing").hidden = true; record(); });
  byId("back").addEventListener("click", back);
  byId("pause").addEventListener("click", () => { record(); showStart(); say("Paused. Nothing is lost."); });
  byId("save").addEventListener("click", save);
  byId("save-end").addEventListener("click", save);
  byId("review").addEventListener("click", () => { state.at = study.trials.length - 1; showQuestion(); });
  byId("larger").addEventListener("click", () => zoomTo(view.zoom * 1.4));
  byId("smaller").addEventListener("click", () => zoomTo(view.zoom / 1.4));
  byId("whole").addEventListener("click", resetView);
  byId("file").addEventListener("change", onFile);
  document.addEventListener("keydown", onKey);
  document.addEventListener("visibilitychange", () => {
    if (state === null || byId("work").hidden) return;
    if (document.hidden) { record(); since = null; } else since = performance.now();
  });
  addEventListener("pagehide", () => { if (state !== null && !byId("work").hidden) record(); });
  addEventListener("beforeunload", (event) => { if (!kept && unsaved.size > 0) event.preventDefault(); });
  addEventListener("storage", (event) => {
    if (event.key === null || !event.key.startsWith(PREFIX)) return;
    if (state !== null && event.key !== nameOf(state.reader)) return;
    const mine = state !== null;
    showStart();
    if (mine) warn("These answers were changed in another tab. Go on in one tab alone.");
  });
}

buildForm();
listen();
showStart();
if (!canKeep()) warn(FORGETFUL);
