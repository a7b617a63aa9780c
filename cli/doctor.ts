// `sidepath doctor`: are the ranks of adapters right, what do they share, and what did they forget? Exit 1 where a gate fails.
import { writeFile } from 'node:fs/promises'
import { basename, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { chooseRanks } from '../compiler/combine/ranks.ts'
import { writePeft } from '../compiler/combine/write-peft.ts'
import { type Compressed, compressTo, type Target } from '../compiler/doctor/compress.ts'
import { diagnose, MAX_INTRUDERS, type ReadAdapter, readForDiagnosis } from '../compiler/doctor/diagnose.ts'
import { applyGate, type Gate, type GateResult, parseGate } from '../compiler/doctor/gate.ts'
import { htmlReport } from '../compiler/doctor/html.ts'
import type { DoctorReport } from '../compiler/doctor/report.ts'
import { openBase } from '../compiler/merge/open-base.ts'
import { readJson } from '../compiler/read-file.ts'
import { openFolder } from '../runtime/disk.ts'
import { type AdapterSpec, parseAdapterSpec, requireFolder } from './adapter-spec.ts'
import { describeReport } from './doctor/describe.ts'
import { withMeasurements } from './doctor/measure.ts'
import { UserError } from './fail.ts'
import { openBaseFolder } from './open-base.ts'
import { writeFolder } from './write-folder.ts'

/** As the command line gives them. */
export interface DoctorOptions {
  readonly base: string
  readonly data?: string
  readonly general?: string
  readonly tokens?: string
  readonly intruders?: string
  readonly json?: boolean
  readonly html?: string
  readonly gate?: string
  readonly compressTo?: string
  readonly out?: string
}

const EXIT_FAILED = 1
/** Written for this purpose and published nowhere else, so that no base has seen it. */
const GENERAL_TEXT = fileURLToPath(new URL('./eval-text/heldout.txt', import.meta.url))
/** More text than this makes a measurement of minutes. */
const DEFAULT_TOKENS = 4096
const MAX_TOKENS = 1_000_000

export async function doctorCommand(adapters: readonly string[], options: DoctorOptions): Promise<void> {
  const specs = adapters.map(parseAdapterSpec)
  await checkOptions(specs, options)
  const target = parseTarget(options)
  const tokens = parseCount('tokens', options.tokens, [2, MAX_TOKENS]) ?? DEFAULT_TOKENS
  const intruders = parseCount('intruders', options.intruders, [1, MAX_INTRUDERS])
  const gate = options.gate === undefined ? undefined : await readGate(options.gate)
  const folder = await openBaseFolder(options.base)
  const base = await openBase(folder)
  const status = statusLine(!options.json)
  try {
    const read = await readForDiagnosis(
      base,
      specs.map(({ name, path }) => ({ name, folder: openFolder(path) })),
    )
    const compressed = target === undefined ? undefined : await compress(read, specs, target, options)
    let report = await diagnose(base, read, {
      ...(intruders === undefined ? {} : { intruders }),
      onModule: (done, total) => status.show(`${done} of ${total} modules`),
    })
    if (options.data !== undefined || options.general !== undefined) {
      const texts = { data: options.data, general: options.general ?? GENERAL_TEXT, maxTokens: tokens }
      report = await withMeasurements(report, { base: folder, specs, adapters: read, ...texts }, status.show)
    }
    status.clear()
    await finish(report, gate, compressed, options)
  } finally {
    status.clear()
    await base.close()
  }
}

async function finish(
  report: DoctorReport,
  gate: Gate | undefined,
  compressed: Compressed | undefined,
  { html, json, out }: DoctorOptions,
): Promise<void> {
  const results = gate === undefined ? [] : applyGate(gate, report)
  const passed = results.every(({ ok }) => ok)
  if (html !== undefined) await writeFile(html, htmlReport(report, results))
  if (json) {
    const { modules: _, ...figures } = compressed ?? { modules: undefined }
    const more = {
      ...(gate && { gate: { passed, results } }),
      ...(compressed && { compressed: { out: resolve(out ?? ''), ...figures } }),
    }
    process.stdout.write(`${JSON.stringify({ ...report, ...more })}\n`)
  } else {
    const lines = [describeReport(report, results)]
    if (compressed !== undefined) lines.push(summarise(compressed, resolve(out ?? '')))
    if (html !== undefined) lines.push(`report → ${resolve(html)}`)
    process.stdout.write(`${lines.join('\n\n')}\n`)
  }
  if (passed) return
  process.stderr.write(`sidepath: the gate failed: ${describeFailures(results)}\n`)
  process.exitCode = EXIT_FAILED
}

function describeFailures(results: readonly GateResult[]): string {
  const failed = results.filter(({ ok }) => !ok)
  return failed.map(({ threshold, subject }) => `${threshold} (${subject})`).join(', ')
}

async function checkOptions(specs: readonly AdapterSpec[], options: DoctorOptions): Promise<void> {
  for (const { name, path, weight } of specs) {
    if (weight !== 1) throw new UserError(`adapter "${name}": a weight changes no rank; give name=folder.`)
    await requireFolder(path, `adapter "${name}"`)
  }
  if (options.tokens !== undefined && options.data === undefined && options.general === undefined) {
    throw new UserError('--tokens goes with --data or --general; add one.')
  }
}

function parseTarget({ compressTo: text, out }: DoctorOptions): Target | undefined {
  if (text === undefined && out === undefined) return undefined
  if (text === undefined)
    throw new UserError('--out goes with --compress-to; add --compress-to 8 or --compress-to 0.99.')
  if (out === undefined) throw new UserError('--compress-to needs --out, the folder of the new adapter.')
  if (/^\d{1,5}$/.test(text)) return { of: 'rank', to: Number(text) }
  if (/^0?\.\d{1,12}$/.test(text)) return { of: 'energy', to: Number(text) }
  throw new UserError(`--compress-to "${text}": give a rank, such as 8, or a share of the energy, such as 0.99.`)
}

function parseCount(
  name: string,
  text: string | undefined,
  [least, most]: readonly [number, number],
): number | undefined {
  if (text === undefined) return undefined
  if (/^\d{1,9}$/.test(text) && Number(text) >= least && Number(text) <= most) return Number(text)
  throw new UserError(`--${name} "${text}": give a whole number from ${least} to ${most}.`)
}

async function readGate(path: string): Promise<Gate> {
  const folder = openFolder(resolve(path, '..'))
  const json = await readJson(folder, basename(path))
  if (json === undefined) throw new UserError(`--gate "${path}" does not exist; docs/doctor.md says what is in one.`)
  return parseGate(json, path)
}

async function compress(
  read: readonly ReadAdapter[],
  specs: readonly AdapterSpec[],
  target: Target,
  { out }: DoctorOptions,
): Promise<Compressed> {
  const [adapter, ...others] = read
  const [spec] = specs
  if (adapter === undefined || spec === undefined || others.length > 0) {
    throw new UserError(`--compress-to takes one adapter, not ${read.length}; run it for each.`)
  }
  const compressed = compressTo(adapter, target)
  const config = ((await readJson(openFolder(spec.path), 'adapter_config.json')) ?? {}) as Record<string, unknown>
  const textOf = (key: string) => (typeof config[key] === 'string' ? config[key] : null)
  const identity = {
    baseModelNameOrPath: textOf('base_model_name_or_path'),
    taskType: textOf('task_type'),
    weights: { [spec.name]: 1 },
  }
  const { modules } = compressed
  const adapterOut = { modules, recipe: { method: 'compress', ...target } as const, ...chooseRanks(modules) }
  await writeFolder(
    out ?? '',
    (folder) => writePeft(adapterOut, identity, folder),
    () => {},
  )
  return compressed
}

function summarise({ report, total }: Compressed, out: string): string {
  const ranks = [...new Set(report.map(({ rank }) => rank))].sort((a, b) => a - b)
  const span = ranks.length > 1 ? `${ranks[0]} to ${ranks.at(-1)}` : String(ranks[0])
  const kept = `${(100 * total.energyKept).toFixed(4)} % of the energy kept`
  return `${report.length} modules at rank ${span}, ${kept}, Frobenius error ${total.frobeniusError.toPrecision(4)} → ${out}`
}

/** A line on stderr that the next one replaces, where stderr is a terminal. */
function statusLine(enabled: boolean): { show(text: string): void; clear(): void } {
  if (!enabled || !process.stderr.isTTY) return { show: () => {}, clear: () => {} }
  const CLEAR_LINE = '\r\u001b[2K'
  return {
    show: (text) => process.stderr.write(`${CLEAR_LINE}doctor: ${text}`),
    clear: () => process.stderr.write(CLEAR_LINE),
  }
}
