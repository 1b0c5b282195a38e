/**
 * The page's program: asks /debug once a second while the page is seen, and writes what is new into the tables. Text of others
 * (names, errors) goes into text nodes alone.
 */

const PERIOD_MS = 1000;
/** Pods change seldom beside stages, and there may be hundreds. */
const PODS_PERIOD_MS = 3000;
const MINUTE_MS = 60_000;
const POINTS = 60;
const SLOWEST = 10;
const FAILED = 12;
const IN_FLIGHT = 40;

const byId = (id) => document.getElementById(id);
const body = (id) => byId(id).tBodies[0];

// ---- What is known

/** Ended jobs by their request id; those of the last minute, the slowest launches and the last failures are kept. */
const jobs = new Map();
let newest = 0;
let before;
const history = { memory: [], delay: [], cpu: [] };
let paused = false;
let podsAt = 0;
let pods = [];

async function ask(path) {
  const response = await fetch(path, { signal: AbortSignal.timeout(10_000) });
  if (!response.ok) throw new Error((await response.text()).trim() || `status ${response.status}`);
  return response.json();
}

async function look() {
  const now = await ask('/debug/now');
  // A second back: a job may end between two looks with an earlier end than one that was seen.
  const since = newest === 0 ? 0 : newest - 1000;
  const { launches } = await ask(`/debug/launches?since=${since}&limit=5000`);
  for (const job of launches) {
    if (job.ended === undefined) continue;
    jobs.set(job.id, job);
    newest = Math.max(newest, job.at + job.ended);
  }
  if (now.now - podsAt >= PODS_PERIOD_MS) {
    pods = (await ask('/debug/pods')).pods;
    podsAt = now.now;
  }
  return now;
}

/** The slowest launches and the last failures outlive their minute; the rest goes. */
function forget(now) {
  const kept = new Set([...slowest(), ...failures()].map(({ id }) => id));
  for (const [id, job] of jobs) {
    if (job.at + job.ended < now - MINUTE_MS && !kept.has(id)) jobs.delete(id);
  }
}

const slowest = () =>
  [...jobs.values()]
    .filter(({ job }) => job === 'RunPodSandbox')
    .sort((a, b) => b.ended - a.ended)
    .slice(0, SLOWEST);
const failures = () =>
  [...jobs.values()]
    .filter(({ outcome }) => outcome === 'error')
    .sort((a, b) => b.at + b.ended - (a.at + a.ended))
    .slice(0, FAILED);

// ---- Numbers and words

function duration(ms) {
  if (ms === undefined || Number.isNaN(ms)) return '–';
  if (ms < 1) return `${ms.toFixed(2)} ms`;
  if (ms < 100) return `${ms.toFixed(1)} ms`;
  if (ms < 10_000) return `${Math.round(ms)} ms`;
  if (ms < 120_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 7_200_000) return `${Math.round(ms / 60_000)} min`;
  if (ms < 172_800_000) return `${Math.round(ms / 3_600_000)} h`;
  return `${Math.round(ms / 86_400_000)} d`;
}

function quantile(sorted, q) {
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))];
}

const ascending = (a, b) => a - b;
const counts = (by) =>
  Object.entries(by)
    .map(([name, count]) => `${count} ${name}`)
    .join(', ') || 'none';

// ---- The document

function element(name, text, className) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
}

function svg(name, attributes) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

/**
 * Makes a table's rows agree with `rows`: one is kept by its key, so that nothing flickers, the reader's selection stays, and
 * hundreds of pods cost what has changed. A cell is a text, or [text, class], or a node.
 */
function fill(table, rows, none) {
  const known = new Map([...table.rows].map((row) => [row.dataset.key, row]));
  if (rows.length === 0)
    rows = [{ key: '', cells: [[none, 'none']], span: table.parentElement.tHead.rows[0].cells.length }];
  let place = table.rows[0];
  for (const { key, cells, className = '', span } of rows) {
    let row = known.get(key);
    if (!row) {
      row = element('tr');
      row.dataset.key = key;
    }
    known.delete(key);
    if (row.className !== className) row.className = className;
    for (const [at, cell] of cells.entries()) put(row, at, cell, span);
    if (row !== place) table.insertBefore(row, place ?? null);
    else place = row.nextElementSibling;
  }
  for (const row of known.values()) row.remove();
}

function put(row, at, cell, span) {
  let td = row.cells[at];
  if (!td) {
    td = row.insertCell();
    if (span) td.colSpan = span;
  }
  if (cell instanceof Node) {
    if (td.dataset.shown === cell.dataset?.shown && td.firstChild) return;
    td.replaceChildren(cell);
    td.dataset.shown = cell.dataset?.shown ?? '';
    return;
  }
  const [text, className = ''] = Array.isArray(cell) ? cell : [cell];
  if (td.textContent !== text) td.textContent = text;
  if (td.className !== className) td.className = className;
}

// ---- The parts

function figure(label, value, note = '', { points, bad } = {}) {
  const box = element('div', undefined, bad ? 'figure bad' : 'figure');
  box.append(element('div', label, 'label'), element('div', value, 'value'), element('div', note, 'note'));
  if (points && points.length > 1) {
    const high = Math.max(...points, 1e-9);
    const line = points.map((point, at) => `${(at / (POINTS - 1)) * 100},${20 - (point / high) * 18}`).join(' ');
    const picture = svg('svg', { viewBox: '0 0 100 22', preserveAspectRatio: 'none', 'aria-hidden': 'true' });
    picture.append(svg('polyline', { points: line }));
    box.append(picture);
  }
  return box;
}

function remember(list, value) {
  list.push(value);
  if (list.length > POINTS) list.shift();
}

function showFigures(now, minute) {
  const launches = minute.filter(({ job, started }) => job === 'RunPodSandbox' && started !== undefined);
  const took = launches
    .filter(({ outcome }) => outcome === 'ok')
    .map(({ ended }) => ended)
    .sort(ascending);
  const lanes = Object.values(now.lanes);
  const sum = (of) => lanes.reduce((total, lane) => total + lane[of], 0);
  const cores =
    before && now.uptimeSeconds > before.up ? (now.cpuSeconds - before.cpu) / (now.uptimeSeconds - before.up) : 0;
  before = { cpu: now.cpuSeconds, up: now.uptimeSeconds };
  remember(history.memory, now.residentBytes);
  remember(history.delay, now.loopDelay.p99);
  remember(history.cpu, cores);
  byId('figures').replaceChildren(
    figure('Pods ready', String(now.pods.ready ?? 0), counts(now.pods)),
    figure('Containers running', String(now.containers.running ?? 0), counts(now.containers)),
    figure(
      'Launches, last minute',
      String(launches.length),
      `p50 ${duration(quantile(took, 0.5))}, p99 ${duration(quantile(took, 0.99))}`,
    ),
    figure('Jobs at work', String(sum('running')), `${sum('queued')} queued`),
    figure('Refused', String(now.refused), 'since the start, queue full', { bad: now.refused > 0 }),
    figure(
      'Clean-ups pending',
      String(now.cleanupsPending),
      now.cleanupsPending > 0 ? 'reasons: below' : 'none failed',
      {
        bad: now.cleanupsPending > 0,
      },
    ),
    figure('Memory', `${Math.round(now.residentBytes / 2 ** 20)} MiB`, 'resident', { points: history.memory }),
    figure(
      'Event loop delay',
      duration(now.loopDelay.p99 * 1000),
      `p99 of 20 s, longest ${duration(now.loopDelay.max * 1000)}`,
      {
        points: history.delay,
        bad: now.loopDelay.p99 > 0.1,
      },
    ),
    figure('CPU', `${cores.toFixed(2)} cores`, `up ${duration(now.uptimeSeconds * 1000)}`, { points: history.cpu }),
  );
}

function bar({ running, limit }) {
  const cell = element('span');
  cell.dataset.shown = `${running}/${limit}`;
  const picture = svg('svg', {
    class: 'bar',
    viewBox: '0 0 100 10',
    preserveAspectRatio: 'none',
    'aria-hidden': 'true',
  });
  picture.append(svg('rect', { class: 'back', width: 100, height: 10 }));
  const width = Math.min(100, (running / Math.max(1, limit)) * 100);
  picture.append(svg('rect', { class: running >= limit ? 'full' : 'work', width, height: 10 }));
  cell.append(picture, `${running} / ${limit}`);
  return cell;
}

function showStages(now, minute) {
  const times = new Map();
  for (const { stages } of minute) {
    for (const { stage, ready, started, ended, error } of stages) {
      let one = times.get(stage);
      if (!one) {
        one = { queue: [], work: [], failed: 0 };
        times.set(stage, one);
      }
      if (started !== undefined) one.queue.push(started - ready);
      if (started !== undefined && ended !== undefined) one.work.push(ended - started);
      if (error !== undefined) one.failed++;
    }
  }
  const rows = Object.entries(now.stages).map(([name, use]) => {
    const { queue, work, failed } = times.get(name) ?? { queue: [], work: [], failed: 0 };
    queue.sort(ascending);
    work.sort(ascending);
    const idle = use.running === 0 && use.queued === 0 && work.length === 0;
    return {
      key: name,
      className: idle ? 'idle' : '',
      cells: [
        name,
        bar(use),
        [String(use.queued), use.queued > 0 ? 'n wait' : 'n'],
        [String(work.length), 'n'],
        [String(failed), failed > 0 ? 'n bad' : 'n'],
        [duration(quantile(queue, 0.5)), 'n'],
        [duration(quantile(queue, 0.99)), 'n'],
        [duration(quantile(work, 0.5)), 'n'],
        [duration(quantile(work, 0.99)), 'n'],
      ],
    };
  });
  fill(body('stages'), rows, 'no stage yet');
}

/** `network (shim, rootfs wait)`: the stages at work, and those that wait for their limit. */
function where({ started, stages, undos }) {
  if (started === undefined) return 'queued';
  const undoing = undos.filter(({ ended }) => ended === undefined).map(({ stage }) => `undo ${stage}`);
  const working = stages
    .filter((one) => one.started !== undefined && one.ended === undefined)
    .map(({ stage }) => stage);
  const waiting = stages.filter((one) => one.started === undefined).map(({ stage }) => stage);
  const text = [...undoing, ...working].join(', ');
  if (undoing.length > 0 || waiting.length === 0) return text;
  return text === '' ? `${waiting.join(', ')} wait` : `${text} (${waiting.join(', ')} wait)`;
}

function showFlight(now) {
  const shown = now.jobs.slice(0, IN_FLIGHT);
  byId('flight-count').textContent =
    now.jobs.length > IN_FLIGHT ? `${IN_FLIGHT} of ${now.jobs.length}` : String(now.jobs.length);
  const rows = shown.map((job) => ({
    key: job.id,
    cells: [[duration(now.now - job.at), 'n'], job.job, where(job), [job.pod ?? job.image ?? '', 'pod']],
  }));
  fill(body('flight'), rows, 'nothing at this moment');
}

function showFailed(now) {
  const rows = failures().map((job) => ({
    key: job.id,
    cells: [
      [duration(now.now - job.at - job.ended), 'n'],
      job.job,
      job.code ?? '',
      [job.pod ?? job.image ?? '', 'pod'],
      [job.error ?? '', 'why'],
    ],
  }));
  byId('failed-count').textContent = rows.length === 0 ? '' : String(rows.length);
  fill(body('failed'), rows, 'nothing that is remembered');
}

/** There only while something is pending. */
function showCleanups({ cleanups }) {
  byId('cleanups').hidden = cleanups.length === 0;
  byId('cleanups-count').textContent = String(cleanups.length);
  const rows = cleanups.map(({ what, id, failed, attempts }) => ({
    key: id,
    cells: [
      [what, 'pod'],
      [String(attempts), 'n'],
      [failed, 'why'],
      [id.slice(0, 13), 'id'],
    ],
  }));
  fill(body('cleanuplist'), rows, 'none');
}

/** Rewritten only when the list is another one: an open chart stays open. */
function showSlowest() {
  const list = byId('slow');
  const all = slowest();
  const key = all.map(({ id }) => id).join();
  if (list.dataset.shown === key) return;
  list.dataset.shown = key;
  const known = new Map([...list.querySelectorAll('details')].map((one) => [one.dataset.key, one]));
  list.replaceChildren(
    ...(all.length > 0 ? all.map((job) => known.get(job.id) ?? chart(job)) : [element('p', 'no launch yet', 'none')]),
  );
}

function chart(job) {
  const box = element('details');
  box.dataset.key = job.id;
  const [longest] = [...job.stages]
    .filter(({ ended }) => ended !== undefined)
    .sort((a, b) => b.ended - b.ready - (a.ended - a.ready));
  const line = element('summary');
  line.append(
    element('span', duration(job.ended), 'took'),
    element('span', job.pod ?? '', 'pod'),
    element('span', longest ? `${longest.stage} ${duration(longest.ended - longest.ready)}` : '', 'none'),
    element('span', job.outcome === 'error' ? 'failed' : '', 'bad'),
  );
  box.append(line);
  box.addEventListener('toggle', () => {
    if (!box.open || box.querySelector('img')) return;
    const picture = element('img');
    picture.alt = `Stages of the launch of ${job.pod ?? job.id} over time`;
    picture.src = `/debug/gantt?id=${encodeURIComponent(job.id)}`;
    picture.addEventListener('error', () =>
      picture.replaceWith(element('p', 'the daemon does not remember it any more', 'none')),
    );
    box.append(picture);
  });
  return box;
}

function showPods() {
  const text = byId('filter').value.trim().toLowerCase();
  const now = Date.now();
  const rows = pods
    .map((pod) => ({
      pod,
      words: `${pod.pod} ${pod.state} ${pod.id} ${pod.runtime} ${pod.addresses.join(' ')}`.toLowerCase(),
    }))
    .filter(({ words }) => words.includes(text))
    .map(({ pod }) => ({
      key: pod.id,
      cells: [
        [pod.pod, 'pod'],
        pod.cleanup
          ? [`${pod.state}: clean-up failed ${pod.cleanup.attempts} times: ${pod.cleanup.failed}`, 'why']
          : [pod.state, pod.state === 'ready' ? '' : 'wait'],
        [pod.createdAt === 0 ? '' : duration(now - pod.createdAt), 'n'],
        counts(pod.containers),
        pod.addresses.join(', ') || '(the node’s)',
        pod.runtime,
        [pod.id.slice(0, 13), 'id'],
      ],
    }));
  byId('pods-count').textContent =
    rows.length === pods.length ? String(pods.length) : `${rows.length} of ${pods.length}`;
  fill(body('podlist'), rows, text === '' ? 'no pods' : 'no pod fits');
}

// ---- The loop

function say(text, className) {
  const state = byId('state');
  if (state.textContent !== text) state.textContent = text;
  state.className = className;
}

function show(now) {
  byId('version').textContent = `${now.version} on ${location.host}`;
  const minute = [...jobs.values()].filter((job) => job.at + job.ended >= now.now - MINUTE_MS);
  showFigures(now, minute);
  showStages(now, minute);
  showFlight(now);
  showFailed(now);
  showCleanups(now);
  showSlowest();
  showPods();
  forget(now.now);
}

async function round() {
  if (!paused && !document.hidden) {
    try {
      show(await look());
      say('live', 'good');
    } catch (error) {
      say(`the daemon does not answer (${error.message}); trying again`, 'bad');
    }
  }
  setTimeout(round, PERIOD_MS);
}

function pause() {
  paused = !paused;
  byId('pause').setAttribute('aria-pressed', String(paused));
  byId('pause').textContent = paused ? 'Go on' : 'Pause';
  if (paused) say('paused', '');
}

byId('pause').addEventListener('click', pause);
byId('filter').addEventListener('input', showPods);
document.addEventListener('keydown', (event) => {
  if (event.target === byId('filter')) {
    if (event.key === 'Escape') byId('filter').blur();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === 'p') pause();
  if (event.key === '/') {
    event.preventDefault();
    byId('filter').focus();
  }
});
round();
