// Two pictures of one prompt under a slider. The pictures are those of the table below it.
for (const section of document.querySelectorAll("section.comparison")) {
  const box = section.querySelector(".compare"), all = section.querySelector(".all");
  if (!box || !all) continue;
  const find = query => box.querySelector(query);
  const border = { same: Number(box.dataset.same), visible: Number(box.dataset.visible) };
  const names = [...all.querySelectorAll("thead th")].map(head => head.textContent.trim());
  const rows = [...all.querySelectorAll("tbody")].map(body => ({
    text: body.querySelector(".prompt").textContent,
    urls: [...body.querySelectorAll("td")].map(cell => cell.querySelector("img")?.src ?? ""),
    ssim: [...body.querySelectorAll("td")].map(cell => cell.dataset.ssim ?? ""),
  }));
  const pair = find(".pair"), slider = find("input[type=range]"), list = find(".thumbs");
  const selects = [find("select.a"), find("select.b")];
  const pictures = [find("img.a"), find("img.b")], tags = [find(".tag.a"), find(".tag.b")];
  const modes = [...box.querySelectorAll("button[data-mode]")];
  let current = rows[0], order = rows, blinking = null;

  const chosen = side => selects[side].selectedIndex;
  const word = ssim => ssim >= border.same ? "nearly the same"
    : ssim < border.visible ? "visible differences" : "small differences";
  const compared = row => [1, 0].map(chosen).map(i => row.ssim[i]).find(ssim => ssim) ?? "";

  function cut() {
    pair.style.setProperty("--cut", `${slider.value}%`);
    slider.setAttribute("aria-valuetext", `${slider.value} % ${names[chosen(0)]}`);
  }
  pictures[1].addEventListener("load", () => {  // full size, but small pictures are enlarged
    const full = Math.min(1024, Math.max(512, pictures[1].naturalWidth));
    find(".stage").style.setProperty("--full", `${full}px`);
  });
  function show(row) {
    current = row;
    pictures.forEach((picture, side) => {
      const url = row.urls[chosen(side)];
      picture.hidden = !url;
      if (url) picture.src = url;
      else picture.removeAttribute("src");
      picture.alt = `${names[chosen(side)]}: ${row.text}`;
      tags[side].textContent = names[chosen(side)] + (url ? "" : ": no picture");
    });
    find(".text").textContent = row.text;
    const said = [1, 0].map(chosen).filter(i => row.ssim[i]).map(i =>
      `${names[i]}: SSIM ${Number(row.ssim[i]).toFixed(2)} to dense, ${word(row.ssim[i])}`);
    find(".said").textContent = said.join("; ");
    find(".count").textContent = `${order.indexOf(row) + 1} of ${order.length}`;
    for (const button of list.querySelectorAll("button")) {
      const here = button.row === row;
      button.setAttribute("aria-current", String(here));
      button.tabIndex = here ? 0 : -1;
    }
    cut();
  }
  function step(by, focus) {
    const place = (order.indexOf(current) + by + order.length) % order.length;
    show(order[place]);
    const button = list.querySelectorAll("button")[place];
    list.scrollTo({  // the list alone, not the page
      left: button.offsetLeft - (list.clientWidth - button.offsetWidth) / 2,
      top: button.offsetTop - (list.clientHeight - button.offsetHeight) / 2,
    });
    if (focus) button.focus({ preventScroll: true });
  }
  function arrange() {  // the prompts whose pictures differ most come first
    order = [...rows].sort((a, b) => (compared(a) || 2) - (compared(b) || 2));
    list.replaceChildren(...order.map(row => {
      const item = document.createElement("li"), button = document.createElement("button");
      const url = row.urls[chosen(1)] || row.urls[chosen(0)];
      const ssim = compared(row);
      button.type = "button";
      button.row = row;
      button.title = row.text;
      button.setAttribute("aria-label", row.text + (ssim ? `, ${word(ssim)}` : ""));
      if (url) {
        const picture = document.createElement("img");
        Object.assign(picture, { src: url, alt: "", decoding: "async", loading: "lazy" });
        button.append(picture);
      }
      if (ssim) {
        const figure = document.createElement("small");
        figure.textContent = Number(ssim).toFixed(2);
        figure.className = word(ssim).split(" ")[0];
        button.append(figure);
      }
      button.addEventListener("click", () => show(row));
      item.append(button);
      return item;
    }));
  }
  function change() {
    arrange();
    show(current);
  }
  function mode(name) {
    clearInterval(blinking);
    pair.dataset.mode = name;
    pair.classList.remove("off");
    slider.hidden = name !== "slider";
    for (const each of modes) each.setAttribute("aria-pressed", String(each.dataset.mode === name));
    if (name === "blink") blinking = setInterval(() => pair.classList.toggle("off"), 700);
  }

  for (const [side, select] of selects.entries()) {
    select.append(...names.map(name => new Option(name)));
    select.selectedIndex = side ? Math.max(1, names.indexOf(box.dataset.chosen)) : 0;
    if (select.selectedIndex < 0) select.selectedIndex = names.length - 1;
    select.addEventListener("change", change);
  }
  slider.addEventListener("input", cut);
  for (const each of modes) each.addEventListener("click", () => mode(each.dataset.mode));
  find(".previous").addEventListener("click", () => step(-1));
  find(".next").addEventListener("click", () => step(1));
  list.addEventListener("keydown", event => {
    const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    step(by, true);
  });
  for (const link of section.querySelectorAll("a[data-worst]")) {
    link.addEventListener("click", () => {
      selects[0].selectedIndex = 0;
      selects[1].selectedIndex = names.indexOf(link.dataset.run);
      arrange();
      show(order[0]);
    });
  }
  box.hidden = false;
  all.open = false;
  mode("slider");
  arrange();
  show(order[0]);
}
