// What the browser keeps; nothing of it is ever part of an address. A browser that refuses keeps it as long as the page lasts.

const PREFIX = "tidegate.";
const DEFAULT_KEY = "a_default_key_for_testing"; // what a server without MY_API_KEY expects

function attempt(action) {
  try {
    return action();
  } catch {
    return null;
  }
}

export const stored = (name) => attempt(() => JSON.parse(localStorage.getItem(PREFIX + name)));
export const store = (name, value) => attempt(() => localStorage.setItem(PREFIX + name, JSON.stringify(value)));

let key = attempt(() => sessionStorage.getItem(`${PREFIX}key`)) ?? stored("key") ?? DEFAULT_KEY;

export const apiKey = () => key;
export const remembersKey = () => stored("remember") ?? true;

// `remember`: in this browser; otherwise until the tab is closed.
export function setKey(value, remember) {
  key = value;
  store("remember", remember);
  if (remember) store("key", value);
  else attempt(() => localStorage.removeItem(`${PREFIX}key`));
  attempt(() => sessionStorage.setItem(`${PREFIX}key`, value));
}

// What belongs to this tab, and survives a reload of it.
export const inTab = (name) => attempt(() => JSON.parse(sessionStorage.getItem(PREFIX + name)));
export const storeInTab = (name, value) => attempt(() => sessionStorage.setItem(PREFIX + name, JSON.stringify(value)));
