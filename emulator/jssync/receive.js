// Subscribes a number of clients of the official SDK to a stream, and checks what each receives:
//
//	node receive.js twilio-sync-4 http://127.0.0.1:8080 orders 20 300
//
// It prints "ready" when all are subscribed. From then on {"n": 0, "at": <milliseconds>}, {"n": 1, …} and so on must arrive:
// each message once, in order. It ends with the number of messages that each client was to receive, and prints how long
// they took.
import { connect, sleep } from './client.js';

const [sdk, url, name, clients, messages] = [...process.argv.slice(2, 5), Number(process.argv[5]), Number(process.argv[6])];
const latencies = [];
let done = 0;

function fail(why) {
  console.error(why);
  process.exit(1);
}

async function subscribe() {
  const client = await connect(sdk, url);
  const stream = await client.stream(name);
  let next = 0;
  stream.on('messagePublished', ({ message: { data } }) => {
    if (data.n !== next) fail(`message ${data.n} came where ${next} was due`);
    latencies.push(Date.now() - data.at);
    next++;
    if (next === messages) done++;
  });
  return stream;
}

const connecting = Date.now();
const streams = await Promise.all(Array.from({ length: clients }, subscribe));
const connected = Date.now() - connecting;
while (true) {
  const answer = await (await fetch(url + '/_emulator/streams')).json();
  if (answer.streams.some(s => s.sid === streams[0].sid && s.subscribers === clients)) break;
  await sleep(20);
}
console.log('ready');

const timeout = setTimeout(() => fail(`${latencies.length} of ${clients * messages} messages have arrived`), 120_000);
while (done < clients) await sleep(20);
await sleep(200); // for one too many
clearTimeout(timeout);
latencies.sort((a, b) => a - b);
const at = share => latencies[Math.min(latencies.length - 1, Math.floor(latencies.length * share))];
console.log(`${clients} clients subscribed after ${connected} ms; ${latencies.length} messages received, p50 ${at(0.5)} ms, p99 ${at(0.99)} ms`);
process.exit(0);
