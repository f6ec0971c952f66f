// Texts as nodes, in which sentences and tokens are elements: text of the data is never markup.
"use strict";

const make = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

const UNSURE = 50, UNLIKELY = 10;  // percent; the legend says the same

/** Text as nodes, its sentences and, where they are known, its tokens as elements.
 *
 * Spans count characters, not UTF-16 units. `sure` has where the first token begins, then of each
 * token its characters and its probability in percent. */
function sentences(text, spans, kind, sure = []) {
  const characters = Array.from(text);
  const tokens = tokenSpans(sure);
  const nodes = [];
  let end = 0;
  spans.forEach(([from, to], index) => {
    if (from < end || from >= characters.length) return;
    nodes.push(...pieces(characters, end, from, tokens));
    end = Math.min(to, characters.length);
    const sentence = make("span", { className: kind }, ...pieces(characters, from, end, tokens));
    sentence.dataset.index = index;
    nodes.push(sentence);
  });
  nodes.push(...pieces(characters, end, characters.length, tokens));
  return nodes;
}

function tokenSpans([begin, ...told]) {
  const tokens = [];
  for (let to = begin, place = 0; place < told.length; place += 2) {
    tokens.push({ from: to, to: to + told[place], percent: told[place + 1] });
    to += told[place];
  }
  return tokens;
}

/** The characters from `from` to `to`, those of tokens in elements with their probability. */
function pieces(characters, from, to, tokens) {
  const nodes = [];
  let end = from;
  for (const token of tokens) {
    if (token.to <= end || token.from >= to) continue;
    const [first, last] = [Math.max(token.from, end), Math.min(token.to, to)];
    const text = characters.slice(first, last).join("");
    const word = text.trimStart();  // tokens begin with the space before them
    nodes.push(characters.slice(end, first).join("") + text.slice(0, text.length - word.length));
    if (word) nodes.push(tokenElement(word, token.percent));
    end = last;
  }
  nodes.push(characters.slice(end, to).join(""));
  return nodes;
}

function tokenElement(textContent, percent) {
  const kind = percent < UNLIKELY ? "token unsure unlikely" : percent < UNSURE ? "token unsure" : "token";
  const token = make("span", { className: kind, textContent, title: `probability ${shownPercent(percent)}` });
  token.dataset.percent = percent;
  return token;
}

const shownPercent = percent => percent < 1 ? "below 1%" : `${percent}%`;

/** What to say of the tokens in an element that the model was least sure of; "" of none. */
function doubts(element) {
  return [...element.querySelectorAll(".unsure")]
    .sort((a, b) => a.dataset.percent - b.dataset.percent).slice(0, 5)
    .map(token => `“${token.textContent}” ${shownPercent(Number(token.dataset.percent))}`).join(", ");
}
