/**
 * The page at `/` of the metrics address in a real browser: it loads, follows the daemon, and is usable by keyboard.
 */
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type Browser, type BrowserContext, chromium, type Locator, type Page } from 'playwright-core';
import { createLog } from '../../src/node/observe/log.ts';
import { createObservability, type Observability } from '../../src/node/observe/observability.ts';
import { JOB_TABLES } from '../../src/pipeline/jobs/tables/all.ts';
import { CACHE, findProgram } from '../rig/paths.ts';
import { waitFor } from '../rig/proc.ts';
import { type ContainerLab, openContainerLab, SKIP } from './container-lab.ts';

const executablePath = findProgram('chromium');
const skip = executablePath ? false : 'needs chromium (Debian package chromium)';

/** A page of its own, with all that the browser complained of, and every address that it asked. */
interface Visit extends AsyncDisposable {
  page: Page;
  complaints: string[];
  hosts: Set<string>;
}

async function visit(
  browser: Browser,
  url: string,
  options: Parameters<Browser['newContext']>[0] = {},
): Promise<Visit> {
  const context: BrowserContext = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(30_000);
  const complaints: string[] = [];
  const hosts = new Set<string>();
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') complaints.push(message.text());
  });
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('request', (request) => {
    if (!request.url().startsWith('data:')) hosts.add(new URL(request.url()).host);
  });
  await page.goto(url);
  await until(page, `document.getElementById('state')?.textContent === 'live'`);
  return { page, complaints, hosts, [Symbol.asyncDispose]: () => context.close() };
}

/**
 * Waits for an expression of the page to be true. (Playwright's own wait evaluates later, which the page's policy
 * forbids.)
 */
const until = (page: Page, expression: string) =>
  waitFor(expression, 30_000, async () => Boolean(await page.evaluate(expression)) || undefined);
const textOf = async (locator: Locator) => (await locator.textContent()) ?? '';
const figure = (page: Page, label: string) =>
  textOf(page.locator('.figure', { has: page.locator('.label', { hasText: label }) }).locator('.value'));

describe('the page', { skip }, () => {
  let browser: Browser;
  before(async () => {
    browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-gpu'] });
  });
  after(() => browser?.close());

  describe('beside a daemon', { skip: SKIP }, () => {
    let lab: ContainerLab;
    before(async () => {
      lab = await openContainerLab({ index: 51 });
    });
    after(() => lab?.[Symbol.asyncDispose]());

    test('it follows launches as they happen, shows a chart, and asks nobody else', async () => {
      await using visitor = await visit(browser, `http://${lab.daemon.metrics}/`);
      const { page, complaints, hosts } = visitor;
      assert.equal(await figure(page, 'Pods ready'), '0');
      assert.match(await textOf(page.locator('#podlist')), /no pods/);
      assert.equal(await page.locator('#cleanups').isVisible(), false);

      const names = Array.from({ length: 8 }, (_, n) => `page-${n}`);
      const pods = await Promise.all(names.map((name) => lab.pod(name)));
      await pods[0]?.run('main', ['sleep', '3600']);
      await until(page, `document.querySelectorAll('#podlist tbody tr[data-key]').length === 8`);
      await until(page, `document.querySelectorAll('#slow details').length >= 8`);
      assert.equal(await figure(page, 'Pods ready'), '8');
      assert.match(await textOf(page.locator('#podlist')), /rig\/page-0ready.*?1 running/);
      const network = await textOf(page.locator('#stages tbody tr[data-key="network"]'));
      assert.match(network, /^network\d+ \/ \d+08/, network); // waiting 0, done 8

      const first = page.locator('#slow details').first();
      await first.locator('summary').click();
      const chart = first.locator('img');
      await chart.waitFor();
      await until(page, `document.querySelector('#slow details img')?.naturalWidth`);
      const failed = await lab.cri.runPodSandbox({ config: pods[0]?.config, runtimeHandler: 'no-such-runtime' }).then(
        () => 'launched',
        () => 'refused',
      );
      assert.equal(failed, 'refused');

      mkdirSync(CACHE, { recursive: true });
      for (const scheme of ['light', 'dark'] as const) {
        await page.emulateMedia({ colorScheme: scheme });
        await page.screenshot({ path: join(CACHE, `page-${scheme}.png`), fullPage: false });
      }
      for (const pod of pods) await pod[Symbol.asyncDispose]();
      await until(page, `document.querySelector('#podlist tbody')?.textContent === 'no pods'`);
      assert.deepEqual(complaints, []);
      assert.deepEqual([...hosts], [lab.daemon.metrics]);
    });

    test('a daemon that goes away and comes back is told', async () => {
      await using visitor = await visit(browser, `http://${lab.daemon.metrics}/`);
      await lab.daemon.stop();
      await until(visitor.page, `/does not answer/.test(document.getElementById('state')?.textContent ?? '')`);
      await lab.daemon.start();
      await until(visitor.page, `document.getElementById('state')?.textContent === 'live'`);
    });
  });

  describe('with 500 pods and names that mean harm', () => {
    let all: Observability;
    let url: string;
    const HARM = '<img src=x onerror=alert(1)>';
    before(async () => {
      const log = createLog({ level: 'error', stream: { write: () => {} } });
      all = createObservability({
        config: {
          metrics: { listen: '127.0.0.1:0', containerd_names: false },
          tracing: { endpoint: '' },
          log: { level: 'error', max_container_line: 16384 },
        },
        jobs: JOB_TABLES,
        log,
      });
      const began = Date.now();
      const podViews = Array.from({ length: 500 }, (_, n) => ({
        id: n.toString(16).padStart(64, '0'),
        pod: n === 7 ? `default/${HARM}` : `default/pod-${n}`,
        state: 'ready',
        createdAt: began - n * 1000,
        runtime: 'runc',
        addresses: [`10.0.${n >> 8}.${n & 255}`],
        containers: { running: 2 },
        ...(n === 9 ? { state: 'removing', cleanup: { failed: `${HARM} plugin`, attempts: 3 } } : {}),
      }));
      all.metrics.readFrom({
        stage: () => ({ running: 2, queued: 1, limit: 8 }),
        pods: () => ({ ready: 500 }),
        cleanupsPending: () => 2,
        cleanups: () => [
          { what: `pod default/${HARM}`, id: 'f'.repeat(64), failed: `${HARM} plugin`, attempts: 3 },
          { what: 'container main', id: 'e'.repeat(64), failed: 'the task is there still', attempts: 0 },
        ],
        refused: () => 5,
        podViews: () => podViews,
      });
      url = `http://127.0.0.1:${await all.server.listen()}/`;
    });
    after(() => all?.[Symbol.asyncDispose]());

    test('all are there, the filter finds some, and a round costs little', async () => {
      await using visitor = await visit(browser, url);
      const { page, complaints } = visitor;
      await until(page, `document.querySelectorAll('#podlist tbody tr[data-key]').length === 500`);
      assert.equal(await figure(page, 'Refused'), '5');
      assert.match(await textOf(page.locator('#podlist')), /clean-up failed 3 times/);
      assert.equal(await figure(page, 'Clean-ups pending'), '2');
      assert.match(await textOf(page.locator('#cleanups')), /container main0the task is there still/);
      assert.equal(await page.locator('main img').count(), 0, 'nothing of a name became an element');
      await page.locator('#filter').fill('10.0.1.2');
      await until(page, `/^\\d+ of 500$/.test(document.getElementById('pods-count')?.textContent ?? '')`);
      assert.equal(await page.locator('#podlist tbody tr').count(), 55); // .2, .20 to .29, .200 to .243
      await page.locator('#filter').fill('');
      const longest = Number(
        await page.evaluate(`(async () => {
          let worst = 0;
          new PerformanceObserver((list) => {
            for (const entry of list.getEntries()) worst = Math.max(worst, entry.duration);
          }).observe({ entryTypes: ['longtask'] });
          await new Promise((resolve) => setTimeout(resolve, 5000));
          return worst;
        })()`),
      );
      console.log(`the longest task of five seconds with 500 pods: ${Math.round(longest)} ms`);
      assert.ok(longest < 500, `${longest} ms`);
      assert.deepEqual(complaints, []);
    });

    test('keys alone are enough', async () => {
      await using visitor = await visit(browser, url);
      const { page } = visitor;
      await page.keyboard.press('Tab');
      assert.equal(await page.evaluate(`document.activeElement?.className`), 'skip');
      await page.keyboard.press('Tab');
      await page.keyboard.press('Enter');
      assert.equal(await page.locator('#pause').getAttribute('aria-pressed'), 'true');
      assert.equal(await textOf(page.locator('#state')), 'paused');
      await page.keyboard.press('p');
      await until(page, `document.getElementById('state')?.textContent === 'live'`);
      await page.keyboard.press('/');
      await page.keyboard.type('pod-49');
      assert.equal(await page.locator('#filter').inputValue(), 'pod-49');
      assert.equal(await page.locator('#podlist tbody tr').count(), 11);
      await page.keyboard.press('Escape');
      assert.equal(await page.evaluate(`document.activeElement?.id`), '');
    });

    test('dark is dark, light is light, and a telephone needs no sideways scrolling', async () => {
      for (const [colorScheme, dark] of [
        ['dark', true],
        ['light', false],
      ] as const) {
        await using visitor = await visit(browser, url, { colorScheme, viewport: { width: 390, height: 800 } });
        const { page } = visitor;
        const colour = String(await page.evaluate(`getComputedStyle(document.body).backgroundColor`));
        const [red = 0] = colour.match(/\d+/g)?.map(Number) ?? [];
        assert.equal(red < 128, dark, colour);
        const wide = Number(
          await page.evaluate(`document.documentElement.scrollWidth - document.documentElement.clientWidth`),
        );
        assert.ok(wide <= 0, `${wide} px too wide`);
      }
    });
  });
});
