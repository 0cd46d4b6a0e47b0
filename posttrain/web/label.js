"use strict";
// What a model wrote reaches the page through textContent and value alone, never as markup.
(() => {
  const at = id => document.getElementById(id);
  const address = new URL(location.href);
  let annotator = address.searchParams.get("annotator") || "";
  let view = null;       // what the server last told
  let mode = "wait";     // wait, name, judge, which (answer is to be edited), edit, over
  let edited = null;     // the place of the answer in the text field
  let shownAt = 0;
  let pending = null;    // what is under way, or could not be sent

  // The token stays out of the history and of what is copied from the address bar.
  function settle() {
    const query = annotator ? "?annotator=" + encodeURIComponent(annotator) : "";
    history.replaceState(null, "", "/" + query);
  }

  function make(tag, kind, text) {
    const element = document.createElement(tag);
    if (kind) element.className = kind;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function say(text) { at("said").textContent = text; }

  async function ask(path, body, done) {
    if (pending && !pending.failed) return;
    pending = { path, body, done, failed: false };
    at("problem").hidden = true;
    const mine = pending;
    let answer, told;
    try {
      answer = await fetch(path, body === null ? {} : {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
      });
      told = answer.headers.get("Content-Type") === "application/json" ? await answer.json() : { error: await answer.text() };
    } catch (error) {
      mine.failed = true;
      fail("The server does not answer. Start the command again; what you did last is not saved yet.");
      return;
    }
    if (answer.ok) {
      pending = null;
      done(told);
    } else if (answer.status === 409) {  // judged in another window
      pending = null;
      show(await (await fetch("/api/next?annotator=" + encodeURIComponent(annotator))).json());
      say(told.error);
    } else {
      mine.failed = answer.status >= 500 || answer.status === 401;
      if (!mine.failed) pending = null;
      fail(told.error || "The server answered " + answer.status + ".", mine.failed);
      untake();
    }
  }

  function fail(text, again = true) {
    at("problem-text").textContent = text;
    at("retry").hidden = !again;
    at("problem").hidden = false;
  }

  function load() {
    ask("/api/next?annotator=" + encodeURIComponent(annotator), null, show);
  }

  function show(told) {
    view = told;
    edited = null;
    annotator = told.annotator || "";
    settle();
    const asked = told.question;
    enter(!annotator ? "name" : asked ? "judge" : "over");
    if (!annotator) {
      at("annotator").focus();
      return;
    }
    at("progress").max = told.total;
    at("progress").value = told.done;
    at("count").textContent = Math.min(told.done + 1, told.total) + " of " + told.total;
    at("who").textContent = annotator;
    at("undo").disabled = told.done === 0;
    at("prompt").replaceChildren();
    at("answers").replaceChildren();
    at("choices").replaceChildren();
    if (!asked) {
      const others = [[told.ties, "tied"], [told.skipped, "skipped"]].filter(([n]) => n).map(([n, word]) => n + " " + word);
      at("count").textContent = told.done + " of " + told.total;
      at("over-counts").textContent = told.done + " questions" + (others.length ? ", of which " + others.join(" and ") : "") + ". Each judgement is saved.";
      at("over-agreement").textContent = told.agreement || "";
      at("again").hidden = !told.skipped;
      at("over-title").focus();
      return;
    }
    for (const message of asked.prompt) {
      const turn = make("div", message.role === "user" || !message.role ? "turn" : "turn aside");
      if (asked.prompt.length > 1) turn.append(make("span", "role", message.role));
      turn.append(make("div", "said", message.text));
      at("prompt").append(turn);
    }
    asked.answers.forEach((answer, place) => {
      const box = make("article", "answer");
      box.append(make("h2", "", "Answer " + (place + 1)), text(answer));
      box.addEventListener("click", () => { if (mode === "which") edit(place); });
      at("answers").append(box);
      const button = make("button", "", asked.answers.length === 2 ? ["Answer 1", "Answer 2"][place] : String(place + 1));
      const key = asked.answers.length === 2 ? ["\u2190", "\u2192"][place] : "";
      if (key) button.append(make("kbd", "", key));
      button.type = "button";
      button.setAttribute("aria-label", "Answer " + (place + 1) + " is better");
      button.addEventListener("click", () => pick(place));
      at("choices").append(button);
    });
    scrollTo(0, 0);
    at("prompt").scrollTop = 0;
    at("asked").focus({ preventScroll: true });
    shownAt = performance.now();
  }

  function text(answer) {
    return answer.shown.trim() ? make("div", "said", answer.shown) : make("div", "nothing", "(an empty answer)");
  }

  function enter(next) {
    mode = next;
    at("name").hidden = mode !== "name";
    at("question").hidden = !["judge", "which", "edit"].includes(mode);
    at("over").hidden = mode !== "over";
    at("export").hidden = mode === "name";
    at("choices").hidden = !["judge", "which"].includes(mode);
    at("others").hidden = !["judge", "which", "over"].includes(mode);
    for (const id of ["tie", "skip", "edit"]) at(id).hidden = mode === "over";
    at("editing").hidden = mode !== "edit";
    document.body.classList.toggle("which", mode === "which");
  }

  const TOLD = { prefer: "You preferred answer ", edit: "Saved as edited from answer ", tie: "You called them equally good", skip: "You skipped one" };

  function judge(verdict, position = null, written = null) {
    if (pending) return;
    const seconds = (performance.now() - shownAt) / 1000;
    if (position !== null) at("answers").children[position].classList.add("taken");
    const body = { annotator, question: view.question.id, verdict, position, text: written, seconds };
    ask("/api/judge", body, told => {
      show(told);
      say(TOLD[verdict] + (position === null ? "" : position + 1) + ". Undo takes it back.");
    });
  }

  function untake() {
    for (const box of at("answers").children) box.classList.remove("taken");
  }

  function pick(place) {
    if (!view.question || place >= view.question.answers.length) return;
    if (mode === "judge") judge("prefer", place);
    else if (mode === "which") edit(place);
  }

  function which() {
    enter("which");
    say("Which answer do you edit? Choose it, or press Esc.");
  }

  function edit(place) {
    if (pending) return;
    const answer = view.question.answers[place];
    if (answer.text === null) {
      say("This answer is more than a text and cannot be edited here.");
      return;
    }
    const box = at("answers").children[place];
    const field = make("textarea");
    field.value = answer.text;
    field.setAttribute("aria-label", "Answer " + (place + 1) + ", edited");
    box.replaceChild(field, box.lastChild);
    edited = place;
    enter("edit");
    say("The edited text is chosen over all the answers shown.");
    field.focus();
    field.setSelectionRange(0, 0);
  }

  function save() {
    if (edited === null) return;
    judge("edit", edited, at("answers").children[edited].lastChild.value);
  }

  function cancel() {
    if (pending && !pending.failed) return;
    if (edited !== null) {
      const box = at("answers").children[edited];
      box.replaceChild(text(view.question.answers[edited]), box.lastChild);
      edited = null;
    }
    enter("judge");
    say("");
  }

  function undo() {
    if (pending || !view.done) return;
    ask("/api/undo", { annotator, done: view.done }, told => {
      show(told);
      say(told.undone ? "Taken back. Judge it again." : "");
    });
  }

  function again() {
    if (pending) return;
    ask("/api/again", { annotator }, told => {
      show(told);
      say("");
    });
  }

  function write() {
    if (pending) return;
    ask("/api/export", { annotator }, told => say(told.said));
  }

  const KEYS = { t: () => judge("tie"), s: () => judge("skip"), e: which, u: undo };

  function pressed(event) {
    if (mode === "edit") {
      if (event.key === "Escape" && !event.isComposing) cancel();
      else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) save();
      else return;
      event.preventDefault();
      return;
    }
    // A key that is held down, or meant for the browser, judges nothing.
    if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (mode === "over" && event.key === "u") undo();
    if (mode === "which" && event.key === "Escape") cancel();
    if (mode !== "judge" && mode !== "which") return;
    const digit = /^[1-9]$/.test(event.key) ? Number(event.key) - 1 : null;
    const arrow = event.key === "ArrowLeft" ? 0 : event.key === "ArrowRight" ? 1 : null;
    const place = digit !== null ? digit : arrow !== null && view.question.answers.length === 2 ? arrow : null;
    if (place !== null) pick(place);
    else if (mode === "judge" && typeof KEYS[event.key] === "function") KEYS[event.key]();
    else return;
    event.preventDefault();
  }

  document.addEventListener("keydown", pressed);
  for (const [id, act] of Object.entries({
    tie: () => mode === "judge" && judge("tie"), skip: () => mode === "judge" && judge("skip"),
    edit: () => mode === "which" ? cancel() : which(), undo, again, save, cancel, export: write,
    retry: () => { if (pending && pending.failed) ask(pending.path, pending.body, pending.done); },
  })) at(id).addEventListener("click", act);
  at("name").addEventListener("submit", event => {
    event.preventDefault();
    annotator = at("annotator").value;
    load();
  });
  settle();
  load();
})();
