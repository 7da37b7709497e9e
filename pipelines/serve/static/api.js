// Requests to the server.

/** An answer other than success: its status, and what the server says. */
export class ServerError extends Error {
  constructor(status, message, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

async function answer(response) {
  if (response.ok) return response.json();
  let detail = response.statusText;
  try {
    const body = await response.json();
    detail = typeof body.detail === "string" ? body.detail : body.detail.map((each) => `${each.loc.at(-1)}: ${each.msg}`).join("; ");
  } catch { /* not JSON: a proxy answered */ }
  if (response.status === 401) location.assign("/login");
  throw new ServerError(response.status, detail, Number(response.headers.get("retry-after")) || 0);
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** POST /api/search. A server that is busy is asked again, as it says, a few times. */
export async function search(fields, image, signal) {
  for (let attempt = 0; ; attempt++) {
    const body = new FormData();
    for (const [name, value] of Object.entries(fields)) if (value !== "" && value !== null && value !== undefined) body.set(name, value);
    if (image) body.set("image", image, "query");
    try {
      return await answer(await fetch("/api/search", { method: "POST", body, signal }));
    } catch (error) {
      if (!(error instanceof ServerError) || error.status !== 503 || attempt === 3) throw error;
      await pause(1000 * (error.retryAfter || 1));
      if (signal.aborted) throw new DOMException("", "AbortError");
    }
  }
}

export const describe = async () => answer(await fetch("/api/table"));
export const filters = async () => answer(await fetch("/api/filters"));

export const imageAddress = (id, version, size) => `/api/image?${new URLSearchParams({ id, version, size })}`;
