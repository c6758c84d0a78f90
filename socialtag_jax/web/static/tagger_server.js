// What the page asks the server.

const TRIES = 20;
const PAUSE_SECONDS = 3; // where the server names none
const CHOICES_AT_ONCE = 40; // browsers refuse what outlives its page over 64 KiB

/** Ends after some seconds, or when the signal aborts. */
function pause(seconds, signal = undefined) {
  return new Promise((done) => {
    setTimeout(done, 1000 * seconds);
    signal?.addEventListener("abort", done, { once: true });
  });
}

/** An answer that says no, in words for people. */
export class Refused extends Error {
  constructor(message, { again }) {
    super(message);
    this.again = again;
  }
}

/** The model, its defaults, and the server's limits. */
export async function model() {
  return answer(await reach("/v1/model"));
}

/**
 * A photo's suggestions, all that the page may show at any threshold, and the model that made them. While the server
 * has too much to do, it is asked again after the time that it names; while it does not answer, every few seconds.
 * @param {File} file
 * @param {{mostTags: number, signal: AbortSignal, onWait: (why: string, seconds: number) => void}} options
 */
export async function tagsOf(file, { mostTags, signal, onWait }) {
  const query = new URLSearchParams({ threshold: "0", max_tags: String(mostTags) });
  const options = {
    method: "POST",
    headers: { "Content-Type": file.type.startsWith("image/") ? file.type : "application/octet-stream" },
    body: await content(file),
    signal,
  };
  for (let tries = 1; ; tries += 1) {
    const response = await reach(`/v1/tags?${query}`, options).catch((problem) => problem);
    const away = response instanceof Refused;
    if (signal.aborted || tries === TRIES || (!away && response.status !== 503)) {
      if (away) {
        throw response;
      }
      const { model, photos } = await answer(response);
      return { model, ...photos[0] };
    }
    const seconds = (!away && Number(response.headers.get("Retry-After"))) || PAUSE_SECONDS;
    onWait(away ? response.message : "The server is busy.", seconds);
    await pause(seconds, signal);
  }
}

/** A file's bytes: where they cannot be read, the request would fail like one to a server that is away. */
async function content(file) {
  try {
    return await file.arrayBuffer();
  } catch {
    throw new Refused("This cannot be read: it is a folder, or a file that was moved or changed.", { again: true });
  }
}

async function reach(address, options) {
  try {
    return await fetch(address, options);
  } catch {
    throw new Refused("The server does not answer.", { again: true });
  }
}

async function answer(response) {
  const body = await response.json().catch(() => null);
  if (response.ok && body !== null) {
    return body;
  }
  const message = body?.error?.message ?? `The server answered with status ${response.status}.`;
  throw new Refused(sentence(message), { again: response.status >= 500 || response.status === 408 });
}

function sentence(text) {
  const capital = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/u.test(capital) ? capital : `${capital}.`;
}

/** Choices on their way to the feedback file: in order, and again and again until they are saved, or refused. */
export class Feedback {
  /** @param {(state: {saved: number, unsaved: number, lost: number, why: string, problem: string}) => void} onChange */
  constructor(onChange) {
    this.onChange = onChange;
    this.unsaved = [];
    this.saved = 0;
    this.lost = 0;
    this.why = "";
    this.sending = false;
  }

  /** @param {{model: string, photo: string, name: string, tag: string, confidence: number, choice: string}} choice */
  add(choice) {
    this.unsaved.push(choice);
    this.tell("");
    if (!this.sending) {
      this.send();
    }
  }

  tell(problem) {
    this.onChange({ saved: this.saved, unsaved: this.unsaved.length, lost: this.lost, why: this.why, problem });
  }

  async send() {
    this.sending = true;
    while (this.unsaved.length > 0) {
      // Of one model: those of another may be refused, and others with them.
      const [{ model }] = this.unsaved;
      const others = this.unsaved.findIndex((choice) => choice.model !== model);
      const choices = this.unsaved.slice(0, others < 0 ? CHOICES_AT_ONCE : Math.min(others, CHOICES_AT_ONCE));
      try {
        await answer(
          await reach("/v1/feedback", {
            method: "POST",
            headers: { "Content-Type": "application/json" },
            body: JSON.stringify({ choices }),
            // Arrives even where the page is closed at once.
            keepalive: true,
          }),
        );
        this.unsaved.splice(0, choices.length);
        this.saved += choices.length;
        this.tell("");
      } catch (error) {
        if (!(error instanceof Refused)) {
          throw error;
        }
        if (error.again) {
          this.tell(error.message);
          await pause(PAUSE_SECONDS);
        } else {
          // Never taken, however often they are sent; the choices after them may well be.
          this.unsaved.splice(0, choices.length);
          this.lost += choices.length;
          this.why = error.message;
          this.tell("");
        }
      }
    }
    this.sending = false;
  }
}
