/**
 * Makes docs/pictures/page-light.png and page-dark.png, the pictures of the page that README.md shows: a daemon of its
 * own that launches pods with containers and pulls an image, in chromium. On an idle machine, whose figures they show.
 *
 *   node test/rig/page-picture.ts
 */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { chromium, type Page } from 'playwright-core';
import { openContainerLab } from '../integration/container-lab.ts';
import { containerConfig, podConfig } from './messages.ts';
import { program, ROOT } from './paths.ts';

const PODS = 60;
/** As many launches are in flight at a time. */
const PARALLEL = 5;
/** Pods that are there when the pictures are taken. */
const SHOWN_FROM = 36;
const IMAGE = 'docker.io/library/busybox:latest';
const LARGE = 'docker.io/bench/large:latest';
const NAMES = ['web', 'api', 'cache', 'worker', 'queue', 'search'];

await using lab = await openContainerLab({ index: 52 });
const { cri, daemon } = lab;
const browser = await chromium.launch({ executablePath: program('chromium'), args: ['--no-sandbox', '--disable-gpu'] });
const page = await browser.newPage({ viewport: { width: 1280, height: 1500 }, colorScheme: 'light' });
await page.goto(`http://${daemon.metrics}/`);

let next = 0;
async function launchOn(): Promise<void> {
  while (next < PODS) {
    const n = next++;
    const config = podConfig(`${NAMES[n % NAMES.length]}-${n}`, {
      namespace: 'shop',
      cgroupParent: daemon.cgroupParent,
    });
    const { podSandboxId } = await cri.runPodSandbox({ config });
    const main = containerConfig('main', IMAGE, ['sleep', '3600']);
    const { containerId } = await cri.createContainer({ podSandboxId, config: main, sandboxConfig: config });
    await cri.startContainer({ containerId });
    if (n === SHOWN_FROM - PARALLEL) await page.locator('#slow summary').first().click();
  }
}

async function take(page: Page, colorScheme: 'light' | 'dark'): Promise<void> {
  await page.emulateMedia({ colorScheme });
  await page.evaluate('scrollTo(0, 0)');
  await page.screenshot({ path: join(ROOT, `docs/pictures/page-${colorScheme}.png`) });
}

const launches = Array.from({ length: PARALLEL }, () => launchOn());
while (next < SHOWN_FROM) await sleep(20);
const pulled = lab.pull(LARGE);
await sleep(700);
await take(page, 'light');
await take(page, 'dark');
await Promise.all([...launches, pulled]);
await browser.close();
