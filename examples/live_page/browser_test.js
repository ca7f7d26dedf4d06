// Looks at the page in a real Chromium:
//
//	node browser_test.js http://127.0.0.1:8081/live /usr/bin/chromium
import { chromium } from 'playwright-core';

const [url, executablePath] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
const page = await browser.newPage();
const outside = [];
page.on('request', request => { if (new URL(request.url()).host !== new URL(url).host) outside.push(request.url()); });
page.on('pageerror', error => { console.error(error); process.exit(1); });
await page.goto(url);
await page.locator('#state', { hasText: 'connected' }).waitFor();
await page.waitForFunction(() => Number(document.getElementById('positions').textContent) >= 10);
const before = await page.locator('#cursor').getAttribute('style');
await page.waitForFunction(style => document.getElementById('cursor').getAttribute('style') !== style, before);
await page.waitForFunction(() => Number(document.getElementById('goroutines').textContent) > 0);
await browser.close();
if (outside.length > 0) {
  console.error('requests left the machine:', outside);
  process.exit(1);
}
