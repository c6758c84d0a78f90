// The rating page: one photo at a time, with its tags. What the rater does shows at once and is stored in the order in
// which it was done; the page never knows where a tag comes from.

const KEYS = "123456789abcdefghijklmnopqrstvwxyz"; // no u: undo
const RETRY_MS = 1000;
// The page is at /studies/STUDY/raters/RATER.
const [, , study, , rater] = location.pathname.split("/");
const ofStudy = `/api/studies/${study}`;
const api = `${ofStudy}/raters/${rater}`;
const element = (id) => document.getElementById(id);

// What the page shows: the photo's state as stored, and what was changed since.
let shown = null;
// Requests that wait for those before them.
let queue = Promise.resolve();
let generation = 0;
// Changes that are not stored yet.
let unsaved = 0;
// Between two photos there is nothing to mark, nor while the page finds out what another page has stored.
let moving = false;
// After an error that the page cannot mend.
let stopped = false;

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function ask(path, method = "GET", body = undefined) {
  const options = { method };
  if (body !== undefined) {
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(body);
  }
  return request(path, options, (response) => response.json());
}

async function request(path, options, read) {
  for (;;) {
    let response = null;
    let answer = null;
    try {
      response = await fetch(path, options);
      answer = await (response.ok ? read(response) : response.json());
    } catch {
      // No answer, or half of one: the program has ended, or the network. It keeps; ask again.
      response = null;
    }
    if (response !== null && response.status !== 503) {
      if (!response.ok) throw new Refused(response.status, answer.error.message);
      element("problem").hidden = true;
      return answer;
    }
    const waits =
      response === null
        ? "The program does not answer. Start socialtag rate again; this page waits for it."
        : "The program cannot store answers. Its disk may be full; this page tries again.";
    element("problem").textContent = unsaved ? `Not saved yet. ${waits}` : waits;
    element("problem").hidden = false;
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

// Does one thing after another. After an error, what waits was made from a state that is gone, and is dropped.
function afterwards(work) {
  const own = generation;
  queue = queue.then(async () => {
    if (own !== generation) return;
    try {
      await work();
    } catch (error) {
      generation += 1;
      if (error.status === 409) await showStored().catch(stop);
      else stop(error);
    }
  });
  return queue;
}

async function showStored() {
  moving = true;
  try {
    await show(await ask(`${api}/photos/${shown.position}`));
  } finally {
    moving = false;
  }
  notice("Another page has changed this under the same name. This is what is stored.");
}

function stop(error) {
  stopped = true;
  element("work").hidden = true;
  element("done").hidden = true;
  element("saved").textContent = "";
  // What was refused for good is refused again; what has failed may not.
  const again = error.status < 500 ? "" : " Load this page again; if it says the same, tell who runs the study.";
  const end = /[.!?]$/u.test(error.message) ? "" : ".";
  element("problem").textContent = `${error.message}${end}${again}`;
  element("problem").hidden = false;
}

function showSaved() {
  if (stopped) return;
  element("saved").textContent = unsaved ? "Saving…" : shown.last_id ? "Saved" : "";
  element("undo").disabled = shown.last_id === 0 && unsaved === 0;
}

// Whether the last tag has been in sight: what nobody has seen must not count as not fitting.
let seen = false;

function look() {
  if (shown === null) return;
  const end = Math.min(element("foot").getBoundingClientRect().top, window.innerHeight);
  seen ||= element("tags").lastElementChild.getBoundingClientRect().bottom <= end + 1;
}

function notice(text) {
  element("notice").textContent = text;
  element("notice").hidden = !text;
}

// A photo that has come, and can be shown: one that is late, or does not come, must not be judged by the one before.
async function loadPhoto(position) {
  const photo = element("photo").cloneNode();
  photo.src = URL.createObjectURL(await request(`${ofStudy}/photos/${position}`, {}, (response) => response.blob()));
  await photo.decode().catch(() => {
    throw new Refused(500, "This browser cannot show the photo.");
  });
  return photo;
}

async function show(state) {
  const moved = shown === null || shown.position !== state.position || element("work").hidden;
  const photo = moved ? await loadPhoto(state.position) : null;
  shown = state;
  element("rater").textContent = state.rater;
  element("progress").max = state.photos;
  element("progress").value = state.finished_photos;
  element("where").textContent = `Photo ${state.position + 1} of ${state.photos}`;
  document.title = `Photo ${state.position + 1} of ${state.photos} – Rating study`;
  element("done").hidden = true;
  element("work").hidden = false;
  if (moved) {
    notice("");
    URL.revokeObjectURL(element("photo").src);
    element("photo").replaceWith(photo);
    element("tags").replaceChildren(...state.tags.map(chip));
    window.scrollTo(0, 0);
    seen = state.finished;
    // Says to a screen reader where it is, and keys work on from there.
    element("where").focus({ preventScroll: true });
  }
  showMarks();
  look();
}

function chip(text, place) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "chip";
  const tag = document.createElement("bdi");
  tag.textContent = text;
  button.append(tag);
  if (place < KEYS.length) {
    const key = document.createElement("kbd");
    key.textContent = KEYS[place].toUpperCase();
    key.setAttribute("aria-hidden", "true");
    button.setAttribute("aria-keyshortcuts", KEYS[place].toUpperCase());
    button.append(key);
  }
  button.addEventListener("click", () => toggle(place));
  const item = document.createElement("li");
  item.append(button);
  return item;
}

function showMarks() {
  for (const [place, button] of element("tags").querySelectorAll("button").entries()) {
    const fits = shown.fitting.includes(place);
    button.setAttribute("aria-pressed", String(fits));
    button.classList.toggle("chip-right", fits);
  }
  element("none").setAttribute("aria-pressed", String(shown.none_fits));
  element("back").disabled = shown.position === 0;
  showSaved();
}

// Shows a change at once, and stores it.
function change(fitting, noneFits, finished) {
  notice("");
  const { position } = shown;
  Object.assign(shown, { fitting, none_fits: noneFits, finished });
  unsaved += 1;
  showMarks();
  afterwards(async () => {
    const state = await store(position, { fitting, none_fits: noneFits, finished, after: shown.answer_id });
    // What was done since then still waits to be stored, and stays on show.
    const { answer_id, last_id, finished_photos, next_position } = state;
    Object.assign(shown, { answer_id, last_id, finished_photos, next_position });
    element("progress").value = finished_photos;
  }).finally(() => {
    unsaved -= 1;
    showSaved();
  });
}

async function store(position, answer) {
  const path = `${api}/photos/${position}`;
  try {
    return await ask(path, "PUT", answer);
  } catch (error) {
    if (error.status !== 409) throw error;
    // Perhaps this very answer was stored, and the program ended before it could say so.
    const state = await ask(path);
    const same = ["none_fits", "finished"].every((name) => state[name] === answer[name]);
    if (same && state.fitting.join() === answer.fitting.join()) return state;
    throw error;
  }
}

function toggle(place) {
  if (busy()) return;
  const fits = shown.fitting.includes(place);
  const fitting = fits ? shown.fitting.filter((one) => one !== place) : [...shown.fitting, place];
  change(fitting.sort((a, b) => a - b), false, false);
}

function toggleNone() {
  if (!busy()) change([], !shown.none_fits, false);
}

const busy = () => moving || shown === null || element("work").hidden;

async function move(work) {
  if (moving || stopped || shown === null) return;
  moving = true;
  element("work").setAttribute("aria-busy", "true");
  try {
    await afterwards(work);
  } finally {
    moving = false;
    element("work").removeAttribute("aria-busy");
  }
}

async function showPhoto(position) {
  await show(await ask(`${api}/photos/${position}`));
}

async function next() {
  if (busy()) return;
  if (!shown.fitting.length && !shown.none_fits) {
    notice("No tag is marked. Mark those that fit, or say that none fits.");
    return;
  }
  if (!seen) {
    notice("There are more tags, here at the end. Mark those that fit, and go on.");
    window.scrollTo(0, document.documentElement.scrollHeight);
    return;
  }
  const again = shown.finished;
  if (!again) change(shown.fitting, shown.none_fits, true);
  await move(async () => {
    const following = again && shown.position + 1 < shown.photos ? shown.position + 1 : shown.next_position;
    if (following === null) showDone();
    else await showPhoto(following);
  });
}

function showDone() {
  element("work").hidden = true;
  element("done").hidden = false;
  element("where").textContent = "All done";
  element("done-text").textContent =
    shown.photos === 1 ? "The photo is rated and stored." : `All ${shown.photos} photos are rated and stored.`;
  document.title = "All done – Rating study";
  element("done-title").focus({ preventScroll: true });
}

function back() {
  if (!busy() && shown.position > 0) move(() => showPhoto(shown.position - 1));
}

function undo() {
  move(async () => {
    if (shown.last_id) await show(await ask(`${api}/undo`, "POST", { last: shown.last_id }));
  });
}

// What the mouse presses does not take the keys: Enter goes on. On what Tab has reached, Enter does what it always does.
element("work").addEventListener("mousedown", (event) => {
  if (event.target.closest("button")) event.preventDefault();
});
element("next").addEventListener("click", next);
element("none").addEventListener("click", toggleNone);
element("back").addEventListener("click", back);
element("undo").addEventListener("click", undo);
element("review").addEventListener("click", () => move(() => showPhoto(shown.photos - 1)));
element("open-help").addEventListener("click", () => element("help").showModal());

// A browser that keeps nothing refuses even to be asked; the choice then lasts until the page is left.
function kept(use) {
  try {
    return use(localStorage);
  } catch {
    return null;
  }
}

const shortcuts = element("shortcuts");
shortcuts.checked = kept((storage) => storage.getItem("single-keys")) !== "off";
shortcuts.addEventListener("change", () => {
  kept((storage) => storage.setItem("single-keys", shortcuts.checked ? "on" : "off"));
});

document.addEventListener("keydown", (event) => {
  if (element("help").open || event.altKey || event.isComposing || shown === null) return;
  const key = event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey) {
    if (key === "z" && !event.shiftKey) act(event, undo);
    return;
  }
  if (!shortcuts.checked) return;
  // Enter on a link or a button is its own.
  const own = event.target.closest("a, button");
  if (key === "enter" && !own) act(event, next);
  else if (key === "0") act(event, toggleNone);
  else if (key === "u") act(event, undo);
  else if (key === "?") act(event, () => element("help").showModal());
  else if (key === "arrowleft") act(event, back);
  else if (KEYS.includes(key) && key.length === 1 && KEYS.indexOf(key) < shown.tags.length) {
    act(event, () => toggle(KEYS.indexOf(key)));
  }
});

function act(event, work) {
  event.preventDefault();
  if (!event.repeat) work();
}

for (const event of ["scroll", "resize"]) window.addEventListener(event, look, { passive: true });

window.addEventListener("beforeunload", (event) => {
  if (unsaved) event.preventDefault();
});

afterwards(async () => {
  const state = await ask(api);
  await show(state);
  if (state.next_position === null) showDone();
});
