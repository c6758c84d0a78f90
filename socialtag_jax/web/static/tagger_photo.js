// One photo of the page: its picture, its state, its chips.

import { ACCEPTED, REJECTED, UNDECIDED, hashtags, shownTags } from "./tagger_tags.js";

const WORDS = { [ACCEPTED]: "accepted", [REJECTED]: "rejected", [UNDECIDED]: "no choice" };

export class Photo {
  /**
   * @param {File} file
   * @param {HTMLTemplateElement} template
   * @param {{onChoice: Function, onCopy: Function, onRemove: Function, onAgain: Function, say: Function}} handlers
   */
  constructor(file, template, handlers) {
    this.file = file;
    this.name = file.name || "pasted photo";
    this.handlers = handlers;
    this.tags = [];
    this.choices = new Map();
    this.sha256 = "";
    this.leaving = new AbortController();
    this.element = template.content.firstElementChild.cloneNode(true);
    this.find = (selector) => this.element.querySelector(selector);
    this.find(".photo-name").textContent = this.name;
    this.find(".remove").setAttribute("aria-label", `Remove ${this.name} from this page`);
    this.find(".copy").setAttribute("aria-label", `Copy hashtags of ${this.name}`);
    this.find(".tags").setAttribute("aria-label", `Tags of ${this.name}`);
    this.find(".copy").addEventListener("click", () => handlers.onCopy(this));
    this.find(".remove").addEventListener("click", () => handlers.onRemove(this));
    this.find(".again").addEventListener("click", () => {
      // The button goes, and the focus would go with it.
      this.find(".photo-name").focus();
      handlers.onAgain(this);
    });
    this.find(".tags").addEventListener("keydown", (event) => this.onKey(event));
    this.find(".tags").addEventListener("focusin", (event) => this.makeStop(event.target.closest(".tag")));
    this.showPicture();
    this.wait("Waiting");
  }

  showPicture() {
    const image = this.find("img");
    this.address = URL.createObjectURL(this.file);
    // What the browser cannot show, the server may still read.
    image.addEventListener("error", () => this.find(".picture").classList.add("unseen"));
    image.src = this.address;
  }

  /** Gives up what is under way, and forgets the picture, which the browser would keep in memory. */
  close() {
    this.leaving.abort();
    URL.revokeObjectURL(this.address);
    this.element.remove();
  }

  wait(text) {
    this.say(text, { waiting: true });
  }

  fail(message, { again }) {
    this.say(message, { failed: true });
    this.find(".again").hidden = !again;
  }

  say(text, { waiting = false, failed = false } = {}) {
    this.find(".state").textContent = text;
    this.find(".state").classList.toggle("failed", failed);
    this.element.classList.toggle("waiting", waiting);
    this.find(".copy").hidden = waiting || failed;
    this.find(".count").hidden = waiting || failed;
    this.find(".again").hidden = true;
  }

  /** Whether it has tags, however few of them are shown. */
  get tagged() {
    return this.sha256 !== "";
  }

  /** What became of it, in words. */
  get outcome() {
    return this.find(".state").textContent || this.find(".count").textContent;
  }

  /** Takes the server's answer. */
  take({ model, sha256, tags }) {
    this.model = model;
    this.sha256 = sha256;
    this.tags = tags;
  }

  /** Shows the tags for these settings. The chip that has the focus keeps it. */
  show(threshold, most) {
    if (!this.tagged) {
      return;
    }
    const list = this.find(".tags");
    const focused = list.contains(document.activeElement) ? document.activeElement.closest(".tag").dataset.tag : null;
    this.shown = shownTags(this.tags, this.choices, threshold, most);
    list.replaceChildren(...this.shown.map((one) => this.chip(one)));
    this.say(this.shown.length ? "" : "No tag is that likely. Move the slider to the left for more.");
    this.find(".copy").disabled = this.hashtags().length === 0;
    this.find(".count").textContent = this.shown.length === 1 ? "1 tag" : `${this.shown.length} tags`;
    const current = this.chipOf(focused) ?? list.firstElementChild;
    if (current) {
      this.makeStop(current);
      if (focused !== null) {
        current.querySelector(".accept").focus();
      }
    }
  }

  /** One stop of the Tab key a photo: the chip that was there last. The arrows move within. */
  makeStop(current) {
    for (const chip of this.find(".tags").children) {
      chip.firstElementChild.tabIndex = chip === current ? 0 : -1;
    }
  }

  hashtags() {
    return hashtags(this.shown ?? [], this.choices);
  }

  chipOf(tag) {
    return [...this.find(".tags").children].find((chip) => chip.dataset.tag === tag);
  }

  chip(one) {
    const chip = document.createElement("span");
    chip.className = "chip tag";
    chip.dataset.tag = one.tag;
    chip.style.setProperty("--confidence", one.confidence);
    const accept = document.createElement("button");
    accept.type = "button";
    accept.className = "accept";
    accept.tabIndex = -1;
    const name = document.createElement("span");
    name.className = "accept-name";
    name.textContent = one.display;
    const figure = document.createElement("span");
    figure.className = "chip-figure";
    figure.textContent = percent(one.confidence);
    accept.append(name, figure);
    accept.addEventListener("click", () => this.choose(one, ACCEPTED));
    const reject = document.createElement("button");
    reject.type = "button";
    reject.className = "reject";
    reject.tabIndex = -1;
    reject.textContent = "\u2715";
    reject.addEventListener("click", () => this.choose(one, REJECTED));
    chip.append(accept, reject);
    this.mark(chip, one);
    return chip;
  }

  mark(chip, one) {
    const choice = this.choices.get(one.tag) ?? UNDECIDED;
    chip.classList.toggle("chip-right", choice === ACCEPTED);
    chip.classList.toggle("chip-wrong", choice === REJECTED);
    const [accept, reject] = chip.children;
    accept.setAttribute("aria-pressed", String(choice === ACCEPTED));
    const rejected = choice === REJECTED ? ", rejected" : "";
    accept.setAttribute("aria-label", `${one.display}, ${percent(one.confidence)} likely${rejected}`);
    reject.setAttribute("aria-pressed", String(choice === REJECTED));
    reject.setAttribute("aria-label", `Reject ${one.display}`);
    reject.textContent = choice === REJECTED ? "\u21A9" : "\u2715";
  }

  /** Chooses; the same choice again takes it back. */
  choose(one, wanted) {
    const choice = this.choices.get(one.tag) === wanted ? UNDECIDED : wanted;
    if (choice === UNDECIDED) {
      this.choices.delete(one.tag);
    } else {
      this.choices.set(one.tag, choice);
    }
    this.mark(this.chipOf(one.tag), one);
    this.find(".copy").disabled = this.hashtags().length === 0;
    this.handlers.say(`${one.display}: ${WORDS[choice]}`);
    const { model, sha256: photo, name } = this;
    this.handlers.onChoice({ model, photo, name, tag: one.tag, confidence: one.confidence, choice });
  }

  onKey(event) {
    const chips = [...this.find(".tags").children];
    const place = chips.indexOf(event.target.closest(".tag"));
    if (place < 0 || event.ctrlKey || event.metaKey || event.altKey) {
      return;
    }
    const one = this.shown[place];
    const moves = { ArrowRight: place + 1, ArrowDown: place + 1, ArrowLeft: place - 1, ArrowUp: place - 1, Home: 0 };
    const actions = {
      a: () => this.choose(one, ACCEPTED),
      Delete: () => this.choose(one, REJECTED),
      Backspace: () => this.choose(one, REJECTED),
      r: () => this.choose(one, REJECTED),
      c: () => this.handlers.onCopy(this),
      End: () => chips.at(-1).firstElementChild.focus(),
    };
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (key in moves) {
      chips[(moves[key] + chips.length) % chips.length].firstElementChild.focus();
    } else if (key in actions) {
      actions[key]();
    } else {
      return;
    }
    event.preventDefault();
  }
}

function percent(share) {
  return `${Math.round(100 * share)} %`;
}
