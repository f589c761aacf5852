// The study, what the reader has said of it, and where that is kept: in the browser where it allows, and in files.

const study = JSON.parse(document.getElementById("study").textContent);
const CHOICES = study.mode === "pairs" ? ["left", "right"] : ["real", "synthetic"];
const SURE = 5;
const PREFIX = `stainloom-review/${study.study}/`;

function emptyAnswer() {
  return { choice: null, confidence: null, findings: [], comment: "", seconds: 0, revisions: 0 };
}

function newState(reader) {
  return { reader, at: 0, saved: null, answers: new Map() };
}

function answerOf(state, trial) {
  if (!state.answers.has(trial.id)) state.answers.set(trial.id, emptyAnswer());
  return state.answers.get(trial.id);
}

function isAnswered(answer) {
  return answer !== undefined && answer.choice !== null && answer.confidence !== null;
}

function countAnswered(state) {
  return study.trials.filter((trial) => isAnswered(state.answers.get(trial.id))).length;
}

function asFile(state) {
  const answers = study.trials
    .filter((trial) => state.answers.has(trial.id))
    .map((trial) => ({ trial: trial.id, ...state.answers.get(trial.id) }));
  const answered = countAnswered(state);
  return {
    format: study.format, study: study.study, mode: study.mode, reader: state.reader, saved: state.saved,
    at: state.at, answered, complete: answered === study.trials.length, answers,
  };
}

// The state in what `asFile` gave, read back. Throws an Error that says what is wrong with it.
function fromFile(content) {
  if (content === null || typeof content !== "object" || content.format !== study.format) {
    throw new Error("This is no file of answers that such a page has saved.");
  }
  if (content.study !== study.study) throw new Error("This file has answers to another study.");
  const reader = cleanName(content.reader);
  if (!reader || !Array.isArray(content.answers)) throw new Error("This file is damaged.");
  const state = newState(reader);
  const known = new Set(study.trials.map((trial) => trial.id));
  for (const each of content.answers) {
    if (each === null || typeof each !== "object" || !known.has(each.trial) || state.answers.has(each.trial)) {
      throw new Error("This file is damaged: it has answers to questions that are not there, or twice.");
    }
    state.answers.set(each.trial, cleanAnswer(each));
  }
  const at = Number.isInteger(content.at) ? content.at : 0;
  state.at = Math.min(Math.max(0, at), study.trials.length - 1);
  return state;
}

function cleanName(name) {
  if (typeof name !== "string") return "";
  // Control characters and others that cannot be seen would make two readers look the same.
  const seen = name.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, " ").replace(/\s+/gu, " ").trim();
  return [...seen].slice(0, study.longest.name).join("").trim();
}

function cleanAnswer(given) {
  const fine =
    (given.choice === null || CHOICES.includes(given.choice)) &&
    (given.confidence === null || (Number.isInteger(given.confidence) && given.confidence >= 1 && given.confidence <= SURE)) &&
    Array.isArray(given.findings) && given.findings.every((each) => Object.hasOwn(study.findings, each)) &&
    typeof given.comment === "string" && Number.isFinite(given.seconds) && given.seconds >= 0 &&
    Number.isInteger(given.revisions) && given.revisions >= 0;
  if (!fine) throw new Error("This file is damaged: an answer in it is none that can be given.");
  return {
    choice: given.choice, confidence: given.confidence, findings: [...new Set(given.findings)],
    comment: given.comment.slice(0, study.longest.comment), seconds: given.seconds, revisions: given.revisions,
  };
}

// Some browsers keep nothing for pages opened from a disk. Then answers last as long as the page, and in files.
const memory = new Map();

function nameOf(reader) {
  return PREFIX + reader.toLowerCase();
}

// Whether the browser will still have it when the page is gone.
function keep(state) {
  const text = JSON.stringify(asFile(state));
  memory.set(nameOf(state.reader), text);
  try {
    localStorage.setItem(nameOf(state.reader), text);
    return true;
  } catch {
    return false;
  }
}

function canKeep() {
  try {
    localStorage.setItem("stainloom-review", "");
    localStorage.removeItem("stainloom-review");
    return true;
  } catch {
    return false;
  }
}

function keptTexts() {
  const texts = new Map(memory);
  try {
    for (let index = 0; index < localStorage.length; index += 1) {
      const name = localStorage.key(index);
      if (name.startsWith(PREFIX)) texts.set(name, localStorage.getItem(name));
    }
  } catch {
    // what is in memory is all there is
  }
  return texts;
}

function readKept(text) {
  try {
    return fromFile(JSON.parse(text));
  } catch {
    return null;
  }
}

function keptOf(reader) {
  const text = keptTexts().get(nameOf(reader));
  return text === undefined ? null : readKept(text);
}

function keptReaders() {
  const found = [...keptTexts().values()].map(readKept).filter((state) => state !== null);
  return found.sort((one, other) => one.reader.localeCompare(other.reader));
}

function download(state) {
  state.saved = new Date().toISOString();
  const safe = state.reader.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "") || "reader";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(asFile(state), null, 1)], { type: "application/json" }));
  link.download = `answers-${safe}-${study.study.slice(0, 8)}.json`;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  return link.download;
}
