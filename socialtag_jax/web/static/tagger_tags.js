// Which of a photo's suggestions are shown, and what is copied: no page, no server.

/** What a person can think of a suggestion. */
export const UNDECIDED = "undecided";
export const ACCEPTED = "accepted";
export const REJECTED = "rejected";

/**
 * The suggestions to show, most confident first: those over the threshold, at most so many, and whatever was chosen.
 * Over, and not at it: as the API and the commands choose.
 * @param {{tag: string, confidence: number}[]} tags most confident first
 * @param {Map<string, string>} choices tag -> ACCEPTED or REJECTED
 * @param {number} threshold 0 to 1
 * @param {number} most
 */
export function shownTags(tags, choices, threshold, most) {
  return tags.filter((one, rank) => (one.confidence > threshold && rank < most) || choices.has(one.tag));
}

/** Hashtags of the shown suggestions that are not rejected, each once. */
export function hashtags(shown, choices) {
  const kept = shown.filter((one) => choices.get(one.tag) !== REJECTED).map((one) => one.hashtag);
  return [...new Set(kept.filter(Boolean))];
}
