import { connection, whenReady } from "/static/page.js";

const root = await whenReady("live");
connection.addEventListener("states", () => {
  connection.watch(connection.service.streams);
  root.textContent = [...connection.states.values()].map((each) => each.name).join(", ");
});
