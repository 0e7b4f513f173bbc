/** The button of `tallyd dev`: it sends an event and tells when each store has it. */

import { ApiError, get, post } from "./api.js";
import { entityNames, number } from "./format.js";
import { h, write } from "./page.js";

const ASK_EVERY_MS = 250;
const ASKS_MAX = 120; // half a minute

/** Sends one view of the most viewed entity of `type`. */
export function sender(app, type) {
  const place = `${app.domain.name}/${type.name}`;
  const action = app.domain.actions.includes("view") ? "view" : app.domain.actions[0];
  const counter = app.domain.counters.includes(action) ? action : app.domain.counters[0];
  const said = h("span", { role: "status" }, "Send a view and see it arrive. Nothing leaves this machine.");
  const button = h("button", { type: "button", onclick: send }, "Send an event");

  async function send() {
    button.disabled = true;
    try {
      const known = await someone();
      const id = known?.entity_id ?? "1";
      const path = `totals/${place}/${encodeURIComponent(id)}`;
      const read = async (query) => (await get(path, query)).counters;
      const before = moved(await read({ fresh: 1 }));
      const started = performance.now();
      const since = () => `${((performance.now() - started) / 1000).toFixed(1)} s`;
      await post({
        event_id: crypto.randomUUID(),
        domain: app.domain.name,
        entity_type: type.name,
        entity_id: id,
        action,
      });
      let text = `A ${action} of “${entityNames(id, known?.row)[0]}”: accepted after ${since()}`;
      for (const [store, query] of [
        ["Redis", { fresh: 1 }],
        ["MongoDB", {}],
      ]) {
        write(said, `${text} …`);
        await until(async () => moved(await read(query)) > before, store);
        text += `, in ${store} after ${since()}`;
      }
      write(said, `${text}: ${number((await read({}))[counter] ?? 0)} in all.`);
      app.refresh();
    } catch (error) {
      if (!(error instanceof ApiError)) console.error(error);
      write(said, `The event did not arrive: ${error.message}`);
    }
    button.disabled = false;
  }

  async function someone() {
    const [first] = (await get(`top/${place}`, { counter, limit: 1, enrich: 1 })).rows;
    if (first) return first;
    const demo = await get(`entities/${place}`, { label: "DEMO-001" }).catch(() => ({ entities: [] }));
    return demo.entities[0];
  }

  return h("div.dev", button, said);
}

/** Any counter: a robot's view, or a second one of the same visitor, may count apart. */
const moved = (counters) => Object.values(counters).reduce((all, amount) => all + amount, 0);

async function until(isSo, store) {
  for (let asks = 0; asks < ASKS_MAX; asks++) {
    if (await isSo()) return;
    await new Promise((resolve) => setTimeout(resolve, ASK_EVERY_MS));
  }
  throw new ApiError(0, `${store} does not have it after half a minute. The page Health says why.`);
}
