// What the page asks the server.

const TRIES = 20;
const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

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
 * A photo's suggestions, all that the page may show at any threshold. While the server has too much to do, it is asked
 * again after the time that it names.
 * @param {File} file
 * @param {{mostTags: number, onWait: (seconds: number) => void}} options
 */
export async function tagsOf(file, { mostTags, onWait }) {
  const query = new URLSearchParams({ threshold: "0", max_tags: String(mostTags) });
  for (let tries = 1; ; tries += 1) {
    const response = await reach(`/v1/tags?${query}`, {
      method: "POST",
      headers: { "Content-Type": file.type.startsWith("image/") ? file.type : "application/octet-stream" },
      body: file,
    });
    if (response.status !== 503 || tries === TRIES) {
      return (await answer(response)).photos[0];
    }
    const seconds = Number(response.headers.get("Retry-After")) || 1;
    onWait(seconds);
    await pause(seconds);
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

/** Choices on their way to the feedback file: in order, and again and again until they are saved. */
export class Feedback {
  /** @param {(state: {saved: number, unsaved: number, problem: string}) => void} onChange */
  constructor(onChange) {
    this.onChange = onChange;
    this.unsaved = [];
    this.saved = 0;
    this.sending = false;
  }

  /** @param {{photo: string, name: string, tag: string, confidence: number, choice: string}} choice */
  add(choice) {
    this.unsaved.push(choice);
    this.tell("");
    if (!this.sending) {
      this.send();
    }
  }

  tell(problem) {
    this.onChange({ saved: this.saved, unsaved: this.unsaved.length, problem });
  }

  async send() {
    this.sending = true;
    while (this.unsaved.length > 0) {
      const choices = this.unsaved.slice(0, 100);
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
        this.tell(error.message);
        await pause(3);
      }
    }
    this.sending = false;
  }
}
