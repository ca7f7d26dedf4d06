// What the programs here share.
import { createRequire } from 'node:module';
import { once } from 'node:events';

const require = createRequire(import.meta.url);

// connect returns a connected client of the official SDK, which is used as a program of its users would use it: only the
// address of the websocket is another one.
export async function connect(sdk, url, token = 'any-token') {
  const { Client } = require(sdk);
  const client = new Client(token, { logLevel: 'silent', twilsock: { uri: url.replace(/^http/, 'ws') + '/v3/wsconnect' } });
  await until(client, 'connectionStateChanged', () => client.connectionState === 'connected');
  return client;
}

// until waits until a condition holds, which can change with an event of the emitter.
export async function until(emitter, event, holds, milliseconds = 20_000) {
  const tooLate = AbortSignal.timeout(milliseconds);
  while (!holds()) {
    try {
      await once(emitter, event, { signal: tooLate });
    } catch (failure) {
      throw tooLate.aborted ? new Error(`${event} did not come within ${milliseconds} ms`) : failure;
    }
  }
}

export const sleep = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds));
