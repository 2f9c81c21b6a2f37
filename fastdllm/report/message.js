// A line to send: Enter or the button. Text and counter travel in one message, so that nothing typed is lost.
function render({ model, el }) {
  const field = document.createElement("input"), button = document.createElement("button");
  el.classList.add("fd-bar");
  field.placeholder = "a question";
  field.setAttribute("aria-label", "message");
  field.style.cssText = "flex: 1 1 420px; max-width: 620px; font: inherit; padding: 4px 6px";
  field.dataset.lmSuppressShortcuts = "true";
  button.textContent = "send";
  const send = () => {
    if (model.get("busy")) return;
    model.set("text", field.value);
    model.set("sent", model.get("sent") + 1);
    model.save_changes();
    field.value = "";
  };
  const busy = () => { button.disabled = model.get("busy"); };
  field.addEventListener("keydown", (event) => { if (event.key === "Enter") send(); event.stopPropagation(); });
  button.addEventListener("click", send);
  model.on("change:busy", busy);
  busy();
  el.append(field, button);
}
export default { render };
