// The tagger's page: photos in, suggestions out, choices saved.

import { Photo } from "./tagger_photo.js";
import { Feedback, Refused, model, tagsOf } from "./tagger_server.js";

const AT_ONCE = 3; // photos on their way to the server
const MOST_TAGS = 50; // that the page can show of a photo
const TOAST_SECONDS = 3;

const element = (id) => document.getElementById(id);
const threshold = element("threshold");
const most = element("most");
const photos = [];
const waiting = [];
let underWay = 0;
let about = null;
let toastTimer = 0;

const feedback = new Feedback(({ saved, unsaved, problem }) => {
  const times = (count) => (count === 1 ? "1 choice" : `${count} choices`);
  element("saved").textContent = saved ? `${times(saved)} saved to ${about.feedback} on the server` : "";
  element("problem").hidden = !problem;
  element("problem").textContent = problem && `${problem} ${times(unsaved)} not saved yet; trying again.`;
});

function toast(text) {
  element("toast").textContent = text;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => {
    element("toast").textContent = "";
  }, 1000 * TOAST_SECONDS);
}

function show() {
  element("threshold-text").textContent = `${threshold.value} %`;
  threshold.setAttribute("aria-valuetext", `${threshold.value} percent`);
  for (const photo of photos) {
    photo.show(threshold.valueAsNumber / 100, mostShown());
  }
}

function mostShown() {
  return Number.isFinite(most.valueAsNumber) ? Math.max(1, most.valueAsNumber) : about.max_tags;
}

async function copy(text) {
  if (!text) {
    toast("There is nothing to copy");
    return;
  }
  await toClipboard(text);
  toast(`Copied ${text}`);
}

async function toClipboard(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  // Over plain HTTP from another computer, browsers have this older way alone.
  const focused = document.activeElement;
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "visually-hidden";
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  focused?.focus();
}

function add(files) {
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
  if (underWay >= AT_ONCE || waiting.length === 0) {
    return;
  }
  const photo = waiting.shift();
  if (photos.includes(photo)) {
    underWay += 1;
    await ask(photo);
    underWay -= 1;
  }
  next();
}

async function ask(photo) {
  photo.wait("Looking at the photo");
  if (photo.file.size > about.limits.photo_bytes) {
    const megabytes = Math.floor(about.limits.photo_bytes / 2 ** 20);
    photo.fail(`The photo has more than ${megabytes} MB, which this server does not take.`, { again: false });
    return;
  }
  try {
    const onWait = (seconds) => photo.wait(`The server is busy. Trying again in ${seconds} s`);
    photo.take(await tagsOf(photo.file, { mostTags: Math.min(MOST_TAGS, about.n_tags), onWait }));
    photo.show(threshold.valueAsNumber / 100, mostShown());
  } catch (error) {
    if (!(error instanceof Refused)) {
      throw error;
    }
    photo.fail(error.message, error);
  }
}

function listen() {
  element("files").addEventListener("change", (event) => {
    add(event.target.files);
    // The same photo may be chosen again.
    event.target.value = "";
  });
  threshold.addEventListener("input", show);
  most.addEventListener("input", show);
  element("copy-all").addEventListener("click", () => {
    const words = photos.flatMap((photo) => photo.hashtags().split(" ")).filter(Boolean);
    copy([...new Set(words)].join(" "));
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
  threshold.value = Math.min(99, Math.max(1, Math.round(100 * about.threshold)));
  most.max = Math.min(MOST_TAGS, about.n_tags);
  most.value = Math.min(about.max_tags, MOST_TAGS, about.n_tags);
  show();
  listen();
}

start();
