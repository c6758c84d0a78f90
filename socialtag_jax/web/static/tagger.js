// The tagger's page: photos in, suggestions out, choices saved.

import { Photo } from "./tagger_photo.js";
import { Feedback, Refused, model, tagsOf } from "./tagger_server.js";

const AT_ONCE = 3; // photos on their way to the server
const MOST_TAGS = 50; // that the page can show of a photo
const MOST_WORDS = 12; // that a copy is told in
const TOAST_SECONDS = 3;

const element = (id) => document.getElementById(id);
const threshold = element("threshold");
const most = element("most");
const photos = [];
const waiting = [];
const finished = new Set(); // since the last time that nothing was under way
let underWay = 0;
let limit = 0; // of the confidence, 0 to 1
let about = null;
let toastTimer = 0;

const feedback = new Feedback(({ saved, unsaved, lost, why, problem }) => {
  const times = (count) => (count === 1 ? "1 choice" : `${count} choices`);
  element("saved").textContent = saved ? `${times(saved)} saved to ${about.feedback} on the server` : "";
  const problems = [
    lost && `${why} ${times(lost)} not saved. Reload the page and give the photos again.`,
    problem && `${problem} ${times(unsaved)} not saved yet; trying again.`,
  ];
  element("problem").textContent = problems.filter(Boolean).join(" ");
  element("problem").hidden = element("problem").textContent === "";
});

function toast(text) {
  element("toast").textContent = text;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => {
    element("toast").textContent = "";
  }, 1000 * TOAST_SECONDS);
}

function show() {
  const percent = Number((100 * limit).toFixed(1));
  element("threshold-text").textContent = `${percent} %`;
  threshold.setAttribute("aria-valuetext", `${percent} percent`);
  for (const photo of photos) {
    photo.show(limit, mostShown());
  }
}

function mostShown() {
  return Number.isFinite(most.valueAsNumber) ? Math.max(1, most.valueAsNumber) : about.max_tags;
}

async function copy(words) {
  if (words.length === 0) {
    toast("There is nothing to copy");
    return;
  }
  const text = words.join(" ");
  if (await toClipboard(text)) {
    toast(words.length > MOST_WORDS ? `Copied ${words.length} hashtags` : `Copied ${text}`);
  } else {
    window.prompt("The browser does not let this page copy. Copy the hashtags from here:", text);
  }
}

/** Whether the text is in the clipboard. */
async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Refused, or not there: over plain HTTP from another computer, browsers have the older way alone.
  }
  const focused = document.activeElement;
  const area = document.createElement("textarea");
  area.value = text;
  area.readOnly = true; // no keyboard on a phone
  area.style.position = "fixed"; // nothing is scrolled to
  document.body.append(area);
  area.focus();
  area.setSelectionRange(0, text.length);
  const copied = document.execCommand("copy");
  area.remove();
  focused?.focus({ preventScroll: true });
  return copied;
}

function add(files) {
  if (files.length === 0) {
    toast("There is no photo in it");
  }
  for (const file of files) {
    const photo = new Photo(file, element("photo-template"), {
      onChoice: (choice) => feedback.add(choice),
      onCopy: (one) => copy(one.hashtags()),
      onRemove: remove,
      onAgain: enqueue,
      say: toast,
    });
    photos.push(photo);
    element("photos").append(photo.element);
    enqueue(photo);
  }
  arrange();
}

function remove(photo) {
  const place = photos.indexOf(photo);
  photos.splice(place, 1);
  photo.close();
  arrange();
  const next = photos[Math.min(place, photos.length - 1)];
  (next ? next.find(".remove") : element("files")).focus();
  toast(`${photo.name} removed from this page`);
}

function arrange() {
  const some = photos.length > 0;
  document.body.classList.toggle("has-photos", some);
  element("controls").hidden = !some;
  element("keys").hidden = !some;
}

function enqueue(photo) {
  photo.wait("Waiting");
  waiting.push(photo);
  next();
}

async function next() {
  if (underWay >= AT_ONCE) {
    return;
  }
  if (waiting.length === 0) {
    tell();
    return;
  }
  const photo = waiting.shift();
  if (photos.includes(photo)) {
    underWay += 1;
    try {
      await ask(photo);
    } finally {
      underWay -= 1;
    }
    finished.add(photo);
  }
  next();
}

/** Says what became of the photos: once for all, however many they were. */
function tell() {
  const told = photos.filter((photo) => finished.has(photo));
  if (underWay > 0 || told.length === 0) {
    return;
  }
  finished.clear();
  const tagged = told.filter((photo) => photo.tagged).length;
  const failed = told.length > tagged ? `, ${told.length - tagged} without tags` : "";
  toast(told.length === 1 ? `${told[0].name}: ${told[0].outcome}` : `${tagged} ${tagged === 1 ? "photo" : "photos"} tagged${failed}`);
}

async function ask(photo) {
  photo.wait("Looking at the photo");
  if (photo.file.size > about.limits.photo_bytes) {
    const megabytes = Math.floor(about.limits.photo_bytes / 2 ** 20);
    photo.fail(`The photo has more than ${megabytes} MB, which this server does not take.`, { again: false });
    return;
  }
  try {
    const { signal } = photo.leaving;
    const onWait = (why, seconds) => {
      photo.wait(`${why} Trying again in ${seconds} s`);
      toast(`${why} Trying again`);
    };
    photo.take(await tagsOf(photo.file, { mostTags: Math.min(MOST_TAGS, about.n_tags), signal, onWait }));
    photo.show(limit, mostShown());
  } catch (error) {
    if (!(error instanceof Refused)) {
      throw error;
    }
    photo.fail(error.message, error);
  }
}

function listen() {
  window.addEventListener("beforeunload", (event) => {
    if (feedback.unsaved.length > 0) {
      event.preventDefault();
    }
  });
  element("files").addEventListener("change", (event) => {
    add(event.target.files);
    // The same photo may be chosen again.
    event.target.value = "";
  });
  threshold.addEventListener("input", () => {
    limit = threshold.valueAsNumber / 100;
    show();
  });
  most.addEventListener("input", show);
  element("copy-all").addEventListener("click", () => {
    copy([...new Set(photos.flatMap((photo) => photo.hashtags()))]);
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData?.files.length) {
      add(event.clipboardData.files);
      event.preventDefault();
    }
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) {
      document.body.classList.remove("dragging");
    }
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    add(event.dataTransfer.files);
  });
}

async function start() {
  try {
    about = await model();
  } catch (error) {
    element("problem").hidden = false;
    element("problem").textContent = `${error.message} Reload the page to try again.`;
    return;
  }
  element("model").textContent = `${about.name}: a model that knows ${about.n_tags.toLocaleString("en")} tags`;
  // The model's own, which the slider has in whole per cent alone.
  limit = about.threshold;
  threshold.value = Math.round(100 * limit);
  most.max = Math.min(MOST_TAGS, about.n_tags);
  most.value = Math.min(about.max_tags, MOST_TAGS, about.n_tags);
  show();
  listen();
}

start();
