/**
 * Fills `data-count="view movie ID"`: the counter, the entity type, the entity id.
 *
 * `analytics.js` imports this file, which lies beside it, on a page that has such an element.
 */

const IDS_MAX = 100; // of one request

const filled = new WeakSet();

/** Writes the counts of the elements inside `root`: one request for all of an entity type. Never rejects. */
export async function fill({ endpoint, defaultDomain }, root) {
  const types = new Map();
  for (const element of root.querySelectorAll("[data-count]")) {
    if (!filled.has(element)) {
      filled.add(element);
      const [counter, type, id] = element.dataset.count.split(" ");
      types.set(type, [...(types.get(type) ?? []), { element, counter, id }]);
    }
  }
  const asked = [];
  for (const [type, elements] of types) {
    for (let at = 0; at < elements.length; at += IDS_MAX) {
      asked.push(ask(elements.slice(at, at + IDS_MAX), `${defaultDomain}/${encodeURIComponent(type)}`, endpoint));
    }
  }
  await Promise.all(asked);
}

async function ask(elements, place, endpoint) {
  try {
    const ids = new URLSearchParams(elements.map(({ id }) => ["id", id]));
    const url = new URL(`/api/v1/analytics/totals/${place}?${ids}`, new URL(endpoint, location));
    const answer = await fetch(url, { credentials: "omit" });
    const { totals } = await answer.json();
    const counters = new Map(totals.map((total) => [total.entity_id, new Map(Object.entries(total.counters))]));
    for (const { element, counter, id } of elements) {
      element.textContent = counters.get(id)?.get(counter) ?? element.textContent;
    }
  } catch {
    elements.forEach(({ element }) => filled.delete(element)); // the next scan asks again
  }
}
