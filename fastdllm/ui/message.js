// A line to send: Enter or the button. Text and counter travel in one message, so that nothing typed is lost, and the
// text stays in its field until the kernel has taken it: what is refused can be mended and sent again.
function render({ model, el }) {
  const field = document.createElement("input"), button = document.createElement("button");
  const note = document.createElement("span");
  el.classList.add("fd-bar");
  field.placeholder = "a question";
  field.setAttribute("aria-label", "message");
  field.style.cssText = "flex: 1 1 200px; min-width: 0; max-width: 620px; font: inherit; padding: 4px 6px; "
    + "color: var(--fd-ink); background: var(--fd-paper); border: 1px solid var(--fd-line)";
  field.dataset.lmSuppressShortcuts = "true";
  button.textContent = "send";
  note.setAttribute("role", "status");
  note.style.cssText = "flex: 0 1 auto; font-weight: 600";
  const send = () => {
    if (model.get("busy")) {
      note.textContent = "an answer is being written; stop it first";
      return;
    }
    model.set("text", field.value);
    model.set("sent", model.get("sent") + 1);
    model.save_changes();
  };
  const busy = () => {
    button.disabled = model.get("busy");
    note.textContent = "";
  };
  const taken = () => { if (field.value === model.get("text")) field.value = ""; };
  field.addEventListener("keydown", (event) => { if (event.key === "Enter" && !event.isComposing) send(); event.stopPropagation(); });
  button.addEventListener("click", send);
  model.on("change:busy", busy);
  model.on("change:taken", taken);
  busy();
  el.append(field, button, note);
}
export default { render };
