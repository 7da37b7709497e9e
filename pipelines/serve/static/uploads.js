// Images that the user searched with, kept in this tab, so that "back" and "reload" find them again.

const LARGEST = 2 << 20; // of an image that is kept; a browser keeps 5 MB in all
const held = new Map();

/** Keep an image, and return the key that stands for it in the address. */
export async function keep(blob) {
  const key = crypto.getRandomValues(new Uint32Array(2)).reduce((text, each) => text + each.toString(36), "");
  held.set(key, blob);
  if (held.size > 8) held.delete(held.keys().next().value);
  if (blob.size <= LARGEST) {
    const url = await new Promise((resolve) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.onerror = () => resolve(null);
      reader.readAsDataURL(blob);
    });
    try {
      for (const name of Object.keys(sessionStorage)) if (name.startsWith("image.")) sessionStorage.removeItem(name);
      if (url) sessionStorage.setItem(`image.${key}`, url);
    } catch { /* no room: it is only lost on reload */ }
  }
  return key;
}

/** The image of a key; null if this tab has none. */
export function recall(key) {
  if (held.has(key)) return held.get(key);
  let url = null;
  try { url = sessionStorage.getItem(`image.${key}`); } catch { /* storage is switched off */ }
  const match = /^data:([^;]*);base64,(.*)$/s.exec(url ?? "");
  if (!match) return null;
  const bytes = Uint8Array.from(atob(match[2]), (each) => each.charCodeAt(0));
  const blob = new Blob([bytes], { type: match[1] });
  held.set(key, blob);
  return blob;
}

/** Keep an image no longer. */
export function forget(key) {
  held.delete(key);
  try { sessionStorage.removeItem(`image.${key}`); } catch { /* storage is switched off */ }
}
