// What somebody chooses once for this browser: language, colours, the key that sends, and the API key.

import { state } from "./conversation.js";
import { element } from "./dom.js";
import { language, setLanguage } from "./i18n.js";
import { sendKey, sendKeyName, setSendKey } from "./keys.js";
import { apiKey, remembersKey, setKey, store, stored } from "./storage.js";

export function showSendKey() {
  element("send-key-name").textContent = sendKeyName(state.mode);
}

function showTheme() {
  document.documentElement.dataset.theme = element("theme").value;
}

// `showEverything`: in another language; `connect`: with another key.
export function setUpPreferences({ showEverything, connect }) {
  element("language").value = language;
  element("theme").value = stored("theme") ?? "auto";
  element("send-key").value = sendKey();
  element("key").value = apiKey();
  element("remember").checked = remembersKey();
  showTheme();
  const onChange = (id, action) => element(id).addEventListener("change", action);
  onChange("language", () => {
    setLanguage(element("language").value);
    showEverything();
  });
  onChange("theme", () => {
    store("theme", element("theme").value);
    showTheme();
  });
  onChange("send-key", () => {
    setSendKey(element("send-key").value);
    showSendKey();
  });
  for (const id of ["key", "remember"]) {
    onChange(id, () => {
      setKey(element("key").value.trim(), element("remember").checked);
      connect();
    });
  }
}
