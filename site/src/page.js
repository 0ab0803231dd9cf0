const url = document.getElementById("url");
if (url.dataset.set === "false")
  url.textContent = (location.protocol === "https:" ? "wss://" : "ws://") + location.host;
