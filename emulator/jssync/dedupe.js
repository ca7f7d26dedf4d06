// What docs/relay.md shows subscribers of the relay: of a message that was published twice, they show one.
export function showOnce(stream, show) {
  const seen = new Set();
  stream.on('messagePublished', ({ message: { data } }) => {
    if (seen.has(data.id)) return;
    seen.add(data.id);
    if (seen.size > 10_000) seen.delete(seen.values().next().value); // the oldest
    show(data);
  });
}
