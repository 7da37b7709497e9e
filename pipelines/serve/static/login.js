// Says when the token was wrong, without leaving the page.
const form = document.getElementById("login");
const wrong = document.getElementById("wrong");
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  wrong.hidden = true;
  try {
    const response = await fetch("/login", { method: "POST", body: new URLSearchParams(new FormData(form)), redirect: "manual" });
    if (response.type === "opaqueredirect" || response.ok) return location.assign("/");
    wrong.textContent = (await response.json()).detail;
  } catch {
    wrong.textContent = "The server does not answer.";
  }
  wrong.hidden = false;
  document.getElementById("token").select();
});
