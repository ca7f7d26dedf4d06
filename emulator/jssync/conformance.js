// Uses the official SDK for all that it can do with message streams, against the emulator at a URL:
//
//	node conformance.js twilio-sync-4 http://127.0.0.1:8080
//
// It prints what it has done, and exits with status 1 at the first thing that is not as with Twilio.
import assert from 'node:assert/strict';
import { connect, sleep, until } from './client.js';
import { showOnce } from './dedupe.js';

const [sdk, url] = process.argv.slice(2);
const credentials = 'Basic ' + btoa('AC00000000000000000000000000000000:auth-token');

async function step(name, act) {
  await act();
  console.log('ok:', name);
}

async function rest(method, path, form) {
  const answer = await fetch(url + '/v1/Services/default' + path, { method, headers: { Authorization: credentials }, body: form && new URLSearchParams(form) });
  return { status: answer.status, body: await answer.json().catch(() => null) };
}

const publish = (stream, data) => rest('POST', `/Streams/${encodeURIComponent(stream)}/Messages`, { Data: JSON.stringify(data) });

async function admin(path, body) {
  const answer = await fetch(url + '/_emulator/' + path, { method: 'POST', body: body && JSON.stringify(body) });
  assert.ok(answer.ok, await answer.text());
}

// listen collects the messages of a stream.
function listen(stream) {
  const got = [];
  stream.on('messagePublished', ({ message, isLocal }) => got.push({ sid: message.sid, data: message.data, isLocal }));
  return got;
}

async function received(stream, got, n) {
  await until(stream, 'messagePublished', () => got.length >= n);
  await sleep(50); // for one too many
  assert.equal(got.length, n);
}

// subscribed waits until a message that is published arrives: the SDK subscribes some time after it has opened a stream.
async function subscribed(stream, got) {
  for (let i = 0; got.length === 0; i++) {
    assert.ok(i < 100, 'no message arrives');
    assert.equal((await publish(stream.sid, { hello: i })).status, 201);
    await sleep(50);
  }
  got.length = 0;
}

const name = `orders/${sdk} ä?#`;
let client, stream, got, other, otherStream, otherGot;

await step('connects', async () => { client = await connect(sdk, url); });

await step('opens a stream by unique name, which makes it', async () => {
  stream = await client.stream(name);
  assert.match(stream.sid, /^TO[0-9a-f]{32}$/);
  assert.equal(stream.uniqueName, name);
  assert.equal((await rest('GET', '/Streams/' + stream.sid)).body.unique_name, name);
});

await step('opens it again by SID', async () => {
  other = await connect(sdk, url);
  otherStream = await other.stream(stream.sid);
  assert.equal(otherStream.sid, stream.sid);
  [got, otherGot] = [listen(stream), listen(otherStream)];
});

await step('makes a stream with a time to live, and refuses to make it twice', async () => {
  const mortal = await client.stream({ id: 'mortal-' + sdk, mode: 'create_new', ttl: 3600 });
  assert.ok(Math.abs(Date.parse(mortal.dateExpires) - Date.now() - 3_600_000) < 60_000, String(mortal.dateExpires));
  await assert.rejects(client.stream({ id: 'mortal-' + sdk, mode: 'create_new' }), { status: 409, code: 54301 });
  await assert.rejects(client.stream({ id: 'TO' + '0'.repeat(32), mode: 'open_existing' }), { status: 404 });
});

await step('receives what is published on REST, byte for byte', async () => {
  await subscribed(stream, got);
  await subscribed(otherStream, otherGot);
  await sleep(100);
  got.length = otherGot.length = 0;
  const data = { text: 'ä漢😀 <b>&amp; \u2028 "\\', n: [1, -2.5, 1e21], deep: { a: { b: [] } }, none: null };
  const { body } = await publish(name, data);
  await received(stream, got, 1);
  await received(otherStream, otherGot, 1);
  assert.deepEqual(got, [{ sid: body.sid, data, isLocal: false }]);
  assert.deepEqual(otherGot, got);
});

await step('publishes: the others receive it, and it is told once', async () => {
  got.length = otherGot.length = 0;
  const message = await stream.publishMessage({ from: 'a browser', ü: 1 });
  assert.match(message.sid, /^TZ[0-9a-f]{32}$/);
  await received(otherStream, otherGot, 1);
  assert.deepEqual(otherGot, [{ sid: message.sid, data: { from: 'a browser', ü: 1 }, isLocal: false }]);
  assert.deepEqual(got, [{ sid: message.sid, data: { from: 'a browser', ü: 1 }, isLocal: true }]);
});

await step('is refused more than 4 KiB', async () => {
  await assert.rejects(stream.publishMessage({ a: 'x'.repeat(5000) }), { status: 413, code: 54006 });
});

await step('is refused too many messages, and told so: it does not repeat by itself', async () => {
  got.length = otherGot.length = 0;
  await admin('faults', { next: 1, operation: 'CreateStreamMessage', answer: { status: 429, code: 54009 } });
  await assert.rejects(stream.publishMessage({ after: 429 }), { status: 429, code: 54009 });
  await stream.publishMessage({ after: 429 });
  await received(otherStream, otherGot, 1);
});

await step('comes back after a cut, and receives again', async () => {
  const states = [];
  client.on('connectionStateChanged', state => states.push(state));
  await admin('subscribers/disconnect', {});
  await until(client, 'connectionStateChanged', () => states.includes('connected'));
  got.length = 0;
  await subscribed(stream, got);
});

await step('is told that its token has expired, and comes back with another', async () => {
  let expired = 0;
  client.on('tokenExpired', () => expired++);
  await admin('subscribers/expire', { stream: name });
  await until(client, 'connectionStateChanged', () => client.connectionState === 'disconnected');
  assert.equal(expired, 1);
  await client.updateToken('another-token');
  await until(client, 'connectionStateChanged', () => client.connectionState === 'connected');
  got.length = 0;
  await subscribed(stream, got);
});

await step('takes another token while it is connected', async () => {
  await client.updateToken('a-third-token');
  assert.equal(client.connectionState, 'connected');
});

await step('receives nothing after it has closed the stream', async () => {
  await until(other, 'connectionStateChanged', () => other.connectionState === 'connected' || other.connectionState === 'disconnected');
  stream.close();
  await sleep(500);
  got.length = 0;
  await publish(name, { after: 'close' });
  await sleep(300);
  assert.deepEqual(got, []);
});

await step('shows once what the relay publishes twice', async () => {
  const relayed = await client.stream('relayed-' + sdk);
  const relayedGot = listen(relayed), shown = [];
  showOnce(relayed, data => shown.push(data.id));
  await subscribed(relayed, relayedGot);
  shown.length = 0;
  for (const data of [{ id: 'a' }, { id: 'a', redelivered: true }, { id: 'b', redelivered: true }, { id: 'b' }, { id: 'c' }]) await publish(relayed.sid, data);
  await until(relayed, 'messagePublished', () => shown.includes('c'), 5000);
  assert.deepEqual(shown, ['a', 'b', 'c']);
});

await step('is told when the stream is deleted', async () => {
  const doomed = await client.stream('doomed-' + sdk);
  const doomedGot = listen(doomed);
  await subscribed(doomed, doomedGot);
  let removed = 0;
  doomed.on('removed', () => removed++);
  assert.equal((await rest('DELETE', '/Streams/' + doomed.sid)).status, 204);
  await until(doomed, 'removed', () => removed > 0, 5000).catch(() => {});
  assert.equal(removed, 1);
});

await step('sets the time to live, and deletes a stream of its own', async () => {
  const own = await client.stream('own-' + sdk);
  await own.setTtl(7200);
  const fetched = await rest('GET', '/Streams/' + own.sid);
  assert.ok(Math.abs(Date.parse(fetched.body.date_expires) - Date.now() - 7_200_000) < 60_000);
  await own.removeStream();
  assert.equal((await rest('GET', '/Streams/' + own.sid)).status, 404);
});

await step('shuts down', async () => {
  await client.shutdown();
  await other.shutdown().catch(() => {}); // its token has expired
  await sleep(200);
  const { subscribers } = await (await fetch(url + '/_emulator/subscribers')).json();
  assert.deepEqual(subscribers, []);
});
process.exit(0);
