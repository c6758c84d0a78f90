"""How well the texts of a page in a browser can be read."""

from playwright.sync_api import Page

_CONTRASTS = """() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = parts(colour).slice(0, 3).map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const found = getComputedStyle(one).backgroundColor;
      if ((parts(found)[3] ?? 1) === 1) return found;
    }
  };
  const result = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || element.closest("script, style, noscript, .visually-hidden")) continue;
    if (!element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const [a, b] = [element.closest("svg") ? style.fill : style.color, behind(element)].map(light);
    result.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), texts.currentNode.data.trim()]);
  }
  return result;
}"""


def contrasts(page: Page) -> list[tuple[float, str]]:
    """Of every text that is shown: its contrast on the first background behind it that is opaque, and the text.

    WCAG 2.2 (1.4.3) asks for 4.5 to 1 of text of this size.
    """
    return [(contrast, text) for contrast, text in page.evaluate(_CONTRASTS)]
