// What the gateway's duties cost: ours with all of them, ours without any on the same host, Portkey's, and none at all,
// interleaved in one run against one fixed upstream. Only ratios within a run mean anything.
//
//   PORTKEY=<folder> node bench/gateway.ts [--only node|workerd|decision]
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { measureDecision } from './gateway-decision.ts'
import { fire } from './gateway-load.ts'
import {
  endAll,
  processorSeconds,
  startNodeGateway,
  startPassThrough,
  startPortkey,
  startUpstream,
  startWorkerdGateway,
  type Target,
} from './gateway-targets.ts'
import { quantile, type Row, record } from './record.ts'

const PARTS = ['node', 'workerd', 'decision'] as const
const CONNECTIONS = [1, 8, 32] as const
const { values } = parseArgs({
  options: { only: { type: 'string' }, repetitions: { type: 'string' }, ms: { type: 'string' } },
})
const only = PARTS.find((part) => part === values.only)
if (values.only !== undefined && only === undefined)
  throw new Error(`--only ${values.only}: one of ${PARTS.join(', ')}`)
const REPETITIONS = Number(values.repetitions ?? 3)
const BURST_MS = Number(values.ms ?? 1_200)
const WARM_MS = 1_500

interface Cell {
  readonly target: string
  readonly stream: boolean
  readonly connections: number
  readonly perSecond: number[]
  /** Of each repetition. */
  readonly p50: number[]
  readonly p99: number[]
  /** µs of processor a request, in all threads of the target: what remains comparable on a machine that is busy. */
  readonly processor: number[]
}

async function measure(targets: readonly Target[], host: string): Promise<Row[]> {
  const cells = new Map<string, Cell>()
  for (const target of targets) {
    for (const stream of target.name === 'portkey' ? [false] : [false, true])
      await fire(target.shots(stream), 8, WARM_MS)
  }
  for (let times = 0; times < REPETITIONS; times++) {
    for (const stream of [false, true]) {
      for (const connections of CONNECTIONS) {
        for (const target of targets) {
          // It waits 25 ms before the first event of a stream, which is no figure of a gateway's work.
          if (stream && target.name === 'portkey') continue
          const before = processorSeconds(target.pid)
          const { requestsPerSecond, latenciesMs } = await fire(target.shots(stream), connections, BURST_MS)
          const name = [target.name, stream, connections].join()
          const cell = cells.get(name) ?? {
            target: target.name,
            stream,
            connections,
            perSecond: [],
            p50: [],
            p99: [],
            processor: [],
          }
          cells.set(name, cell)
          cell.perSecond.push(requestsPerSecond)
          cell.p50.push(1000 * quantile(latenciesMs, 0.5))
          cell.p99.push(1000 * quantile(latenciesMs, 0.99))
          const after = processorSeconds(target.pid)
          if (before !== undefined && after !== undefined) {
            cell.processor.push((1e6 * (after - before)) / latenciesMs.length)
          }
        }
      }
    }
  }
  return [...cells.values()].flatMap((cell) => rowsOf(cell, cells, host))
}

const median = (samples: readonly number[]) => quantile(samples, 0.5)

function rowsOf(cell: Cell, cells: ReadonlyMap<string, Cell>, host: string): Row[] {
  const what = `${host}, ${cell.stream ? 'SSE of 20 events' : 'JSON'}, ${cell.connections} connections: ${cell.target}`
  const other = (name: string) => cells.get([name, cell.stream, cell.connections].join())
  const ratios = ['direct', 'portkey', 'pass-through']
    .filter((name) => name !== cell.target && cell.target !== 'direct')
    .flatMap((name) => {
      const found = other(name)
      // Repetition by repetition: what the machine did meanwhile was done to both.
      return found === undefined
        ? []
        : [
            `${median(cell.perSecond.map((value, at) => value / (found.perSecond[at] ?? Number.NaN))).toFixed(2)}× ${name}`,
          ]
    })
  const direct = other('direct')
  const added = direct && cell.target !== 'direct' ? median(cell.p50) - median(direct.p50) : undefined
  return [
    {
      what: `${what}, requests/s`,
      value: [`${median(cell.perSecond).toFixed(0)}`, ...ratios].join(', '),
      samples: cell.perSecond,
    },
    {
      what: `${what}, p50`,
      value: `${median(cell.p50).toFixed(0)} µs${added === undefined ? '' : `, added ${added.toFixed(0)} µs`}`,
      samples: cell.p50,
    },
    ...(cell.processor.length === 0
      ? []
      : [
          {
            what: `${what}, processor time a request`,
            value: `${median(cell.processor).toFixed(0)} µs`,
            samples: cell.processor,
          },
        ]),
    { what: `${what}, p99`, value: `${median(cell.p99).toFixed(0)} µs`, samples: cell.p99 },
  ]
}

const rows: Row[] = []
try {
  if (only === undefined || only === 'decision') rows.push(...(await measureDecision()))
  if (only !== 'decision') {
    const { target: direct, url } = await startUpstream()
    const portkey = await startPortkey(url)
    if (only !== 'workerd') {
      const pass = await startPassThrough('node', url)
      const duties = await startNodeGateway(url, 'all duties', ['--durability', 'batch'])
      const power = await startNodeGateway(url, 'all duties, durability power', ['--durability', 'power'])
      rows.push(...(await measure([direct, portkey, pass, duties, power], 'Node')))
    }
    if (only !== 'node') {
      const pass = await startPassThrough('workerd', url)
      const duties = await startWorkerdGateway(url)
      rows.push(...(await measure([direct, portkey, pass, duties], 'workerd')))
    }
  }
} finally {
  await endAll()
}
const command = ['node bench/gateway.ts', ...process.argv.slice(2)].join(' ')
record(only === undefined ? 'raw/gateway' : `raw/gateway-${only}`, command, rows)

/** What the README shows; of parts that did not run, what it showed before. */
const SHOWN = [
  /^(Node|workerd), JSON, \d+ connections: all duties, (requests\/s)$/,
  /^(Node|workerd), JSON, 1 connections: (all duties|portkey), p50$/,
  /^(Node|workerd), SSE of 20 events, 8 connections: all duties, requests\/s$/,
  /^(decision).*: (warm p50|round trips of a cold decision)$/,
]
const partOf = (what: string) => PARTS.find((part) => what.toLowerCase().startsWith(part))
const summary = join(import.meta.dirname, 'results/gateway.json')
const before: { rows: Row[] } = existsSync(summary) ? JSON.parse(readFileSync(summary, 'utf8')) : { rows: [] }
const measured = new Set(rows.map(({ what }) => partOf(what)))
record('gateway', 'PORTKEY=<folder> npm run bench:gateway', [
  ...before.rows.filter(({ what }) => !measured.has(partOf(what))),
  ...rows.filter(({ what }) => SHOWN.some((shown) => shown.test(what))),
])
