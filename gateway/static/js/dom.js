// The few lines that every view needs.

export const element = (id) => document.getElementById(id);

// make("p", {className: "hint"}, "text", otherNode): what starts with data- or aria-, role and `for` are attributes.
export function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && !name.includes("-")) node[name] = value;
    else if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const announce = (sentence) => {
  element("announcer").textContent = sentence;
};

export async function copy(text) {
  if (navigator.clipboard) {
    try {
      return await navigator.clipboard.writeText(text);
    } catch {
      /* not allowed: the old way */
    }
  }
  // Browsers give a clipboard only to https and localhost; a page on a machine of the house needs this.
  const focused = document.activeElement;
  const area = make("textarea", { value: text, className: "hidden" });
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  focused.focus();
}
