// Uses the live page in a real Chromium, as people do:
//
//	node page.js http://127.0.0.1:8080 /usr/bin/chromium [screenshot.png]
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { chromium } from 'playwright-core';
import { sleep } from './client.js';

const [url, executablePath, screenshot] = process.argv.slice(2);
const require = createRequire(import.meta.url);
const authorization = 'Basic ' + btoa('AC00000000000000000000000000000000:auth-token');

function check(holds, what) {
  if (holds) return;
  console.error(`not true: ${what}`);
  process.exit(1);
}

async function publish(data, stream = 'orders') {
  return fetch(`${url}/v1/Services/default/Streams/${stream}/Messages`, { method: 'POST', headers: { authorization }, body: new URLSearchParams({ Data: JSON.stringify(data) }) });
}

const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
const outside = [];
page.on('request', request => { if (!request.url().startsWith(url) && !request.url().startsWith('data:')) outside.push(request.url()); });
await page.goto(url);
await page.locator('#connection.live').waitFor();

// A message that a program publishes is seen; so is a refused one, with its reason.
await publish({ id: 7, state: 'paid' });
await page.locator('#log li', { hasText: '"paid"' }).waitFor();
await page.locator('#fault-429').click();
await page.locator('#faults li').first().waitFor();
check((await publish({ id: 8 })).status === 429, 'the 429 button makes the next message fail');
await page.locator('#log li.refused', { hasText: '54009' }).waitFor();
await page.locator('#fault-none').click();
await page.waitForFunction(() => document.querySelectorAll('#faults li').length === 0);

// The form publishes.
await page.locator('#publish-data').fill('{"from": "the page"}');
await page.locator('#publish button[type=submit]').click();
await page.locator('#log li', { hasText: 'the page' }).waitFor();
if (screenshot) await page.screenshot({ path: screenshot });

// Screen readers and keyboards: no serious finding of axe-core. The page allows no other script, so it is added by the tester's own means.
const session = await page.context().newCDPSession(page);
await session.send('Page.setBypassCSP', { enabled: true });
await page.reload();
await page.locator('#connection.live').waitFor();
await page.locator('#log li', { hasText: 'the page' }).waitFor(); // what arrived before is there too
check(await page.locator('#note').textContent() === '', 'the page has nothing to complain of: ' + await page.locator('#note').textContent());
await page.addScriptTag({ path: require.resolve('axe-core') });
const findings = (await page.evaluate(() => axe.run())).violations.filter(v => v.impact === 'serious' || v.impact === 'critical');
check(findings.length === 0, 'no serious finding of axe-core: ' + findings.map(f => f.id).join(', '));

// Ten thousand messages at a thousand a second stay usable.
await page.evaluate(() => {
  window.longest = 0;
  new PerformanceObserver(list => { for (const entry of list.getEntries()) window.longest = Math.max(window.longest, entry.duration); }).observe({ type: 'longtask' });
});
const started = Date.now();
for (let sent = 0; sent < 10_000; sent += 100) {
  await Promise.all(Array.from({ length: 100 }, (_, i) => publish({ n: sent + i }, `flood-${(sent + i) % 50}`)));
  await sleep(Math.max(0, started + sent - Date.now()));
}
const seconds = (Date.now() - started) / 1000;
await page.waitForFunction(() => Number(document.querySelector('#total').textContent.replace(/\D/g, '')) >= 10_000, undefined, { timeout: 30_000 });
const rows = await page.locator('#log li').count();
check(rows <= 1_000, `the list is bounded: ${rows} rows`);
console.log(`10,000 messages in ${seconds} s: ${rows} rows, the longest task took ${Math.round(await page.evaluate(() => window.longest))} ms`);
check(outside.length === 0, 'no request leaves the machine: ' + outside.join(', '));

// A page of another origin can neither read nor change anything.
const elsewhere = createServer((_, answer) => answer.setHeader('Content-Type', 'text/html').end('<title>elsewhere</title>')).listen(0, '127.0.0.1');
await new Promise(resolve => elsewhere.once('listening', resolve));
const stranger = await browser.newPage();
await stranger.goto(`http://localhost:${elsewhere.address().port}/`.replace('localhost', '127.0.0.1'));
const seen = await stranger.evaluate(async url => {
  const tries = {
    'read the messages': () => fetch(url + '/_emulator/messages').then(answer => answer.text()),
    'read the events': () => fetch(url + '/_emulator/events').then(answer => answer.text()),
    'script a fault': () => fetch(url + '/_emulator/faults', { method: 'POST', mode: 'no-cors', body: '{"every":true,"reset":true}' }).then(answer => { if (answer.type !== 'opaque') return 'a readable answer'; throw new Error('opaque'); }),
    'forget everything': () => fetch(url + '/_emulator/reset', { method: 'POST', mode: 'no-cors' }).then(answer => { if (answer.type !== 'opaque') return 'a readable answer'; throw new Error('opaque'); }),
  };
  const worked = [];
  for (const [what, attempt] of Object.entries(tries)) {
    try { await attempt(); worked.push(what); } catch { /* as it should be */ }
  }
  return worked;
}, url);
check(seen.length === 0, 'a page elsewhere can: ' + seen.join(', '));
check((await (await fetch(url + '/_emulator/faults')).json()).faults.length === 0, 'a page elsewhere scripts no fault');
check((await (await fetch(url + '/_emulator/messages')).json()).messages.length > 0, 'a page elsewhere makes nothing forgotten');
elsewhere.close();
await browser.close();
