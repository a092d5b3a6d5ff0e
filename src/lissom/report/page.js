(() => {
  "use strict";

  const draw = (holder) => {
    const spec = JSON.parse(document.getElementById(holder.dataset.figure).textContent);
    holder.classList.add("drawn");
    window.Plotly.newPlot(holder, spec.data, spec.layout, { displayModeBar: false, responsive: true });
  };
  document.querySelectorAll("[data-figure]").forEach(draw);

  const select = (element) => {
    const range = document.createRange();
    range.selectNodeContents(element);
    const selection = window.getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
  };

  // Some browsers offer no clipboard to pages opened from disk: there the text is left selected.
  const copy = async (button) => {
    const source = document.getElementById(button.dataset.copies);
    const status = button.parentElement.querySelector("[role=status]");
    try {
      await navigator.clipboard.writeText(source.textContent);
      status.textContent = "Copied.";
    } catch {
      select(source);
      status.textContent = "Selected: copy it with the keyboard.";
    }
  };
  document.querySelectorAll("[data-copies]").forEach((button) => {
    button.hidden = false;
    button.addEventListener("click", () => copy(button));
  });

  // One sentence at a time; without this script all of them are read one after the other.
  document.querySelectorAll("[data-slides]").forEach((holder) => {
    const slider = holder.querySelector("input");
    const sentences = [...holder.querySelectorAll("li")];
    const show = () => {
      sentences.forEach((sentence, index) => { sentence.hidden = index !== Number(slider.value); });
      slider.setAttribute("aria-valuetext", sentences[slider.value].textContent);
    };
    holder.querySelector("label").hidden = sentences.length < 2;
    slider.addEventListener("input", show);
    show();
  });

  // Paper has another width than the screen.
  const resize = () => document.querySelectorAll(".drawn").forEach((holder) => window.Plotly.Plots.resize(holder));
  window.addEventListener("beforeprint", resize);
  window.addEventListener("afterprint", resize);
})();
