/**
 * Makes docs/pictures/page.png, the picture of the page that README.md shows: a daemon of its own that launches pods,
 * in chromium.
 *
 *   node test/rig/page-picture.ts
 */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { chromium } from 'playwright-core';
import { startSluice } from './daemon.ts';
import { podConfig } from './messages.ts';
import { program, ROOT } from './paths.ts';

const PODS = 60;

await using daemon = await startSluice({ index: 52 });
const browser = await chromium.launch({ executablePath: program('chromium'), args: ['--no-sandbox', '--disable-gpu'] });
const page = await browser.newPage({ viewport: { width: 1280, height: 1500 }, colorScheme: 'light' });
await page.goto(`http://${daemon.metrics}/`);
const names = ['web', 'api', 'cache', 'worker', 'queue', 'search'];
const launches = Array.from({ length: PODS }, (_, n) =>
  daemon.cri.runPodSandbox({
    config: podConfig(`${names[n % names.length]}-${n}`, { namespace: 'shop', cgroupParent: daemon.cgroupParent }),
  }),
);
await Promise.race(launches.slice(-30));
await sleep(1200);
await page.locator('#slow summary').first().click();
await sleep(800);
await page.evaluate('scrollTo(0, 0)');
await page.screenshot({ path: join(ROOT, 'docs/pictures/page.png') });
await Promise.all(launches);
await browser.close();
