// The first page of a rating study: who rates?

const problem = document.getElementById("problem");

function show(text) {
  problem.textContent = text;
  problem.hidden = !text;
}

async function answer(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The program does not answer. Is socialtag rate still running?");
  }
  const body = await response.json();
  if (!response.ok) throw new Error(body.error.message);
  return body;
}

function raterLink(rater, { key, photos }) {
  const link = document.createElement("a");
  link.href = `/studies/${key}/raters/${rater.id}`;
  const name = document.createElement("bdi");
  name.textContent = rater.name;
  const bar = document.createElement("progress");
  bar.max = photos;
  bar.value = rater.finished;
  bar.setAttribute("aria-hidden", "true");
  const figure = document.createElement("span");
  figure.className = "soft small figures";
  figure.textContent = `${rater.finished} of ${photos}`;
  link.append(name, bar, figure);
  const item = document.createElement("li");
  item.append(link);
  return item;
}

let study = null;

async function load() {
  study = await answer("/api/study");
  document.getElementById("summary").textContent = study.photos === 1 ? "1 photo" : `${study.photos} photos`;
  document.getElementById("raters").replaceChildren(...study.raters.map((rater) => raterLink(rater, study)));
  document.getElementById("known").hidden = study.raters.length === 0;
}

document.getElementById("join").addEventListener("submit", async (event) => {
  event.preventDefault();
  show("");
  const name = document.getElementById("name").value;
  try {
    if (study === null) await load();
    const rater = await answer(`/api/studies/${study.key}/raters`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ name }),
    });
    location.assign(`/studies/${study.key}/raters/${rater.id}`);
  } catch (error) {
    show(error.message);
    // The rater of that name, or the study that is served here now, may be newer than the page.
    await load().catch(() => {});
  }
});

// A page that the browser kept for its Back button has old figures.
window.addEventListener("pageshow", () => load().catch((error) => show(error.message)));
