// The report as one HTML page that needs nothing else: style and plots are in it, scripts are not.
import type { GateResult } from './gate.ts'
import type { AdapterReport, DoctorReport, ModuleReport, PairReport } from './report.ts'
import { barPlot, escapeHtml, linePlot } from './svg.ts'

/** Bars of one plot and lines of another; the table has every module. */
const PLOTTED_MODULES = 48
/** What may be wrong comes first. */
const ORDER: readonly ModuleReport['verdict'][] = ['too-low', 'at-limit', 'unused', 'spare', 'fits']

const STYLE = `
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --paper: #ffffff; --card: #f6f8fa; --rule: #d0d7de;
  --bad: #b3261e; --warn: #9a6700; --good: #1a7f37; --spare: #0969da; --line: #0969da; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9da7b3; --paper: #0d1117; --card: #161b22;
  --rule: #30363d; --bad: #ff7b72; --warn: #e3b341; --good: #56d364; --spare: #79c0ff; --line: #79c0ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.25rem; margin: 2.25rem 0 .5rem; } h3 { font-size: 1rem; margin: 1.25rem 0 .25rem; }
p { margin: .25rem 0; max-width: 60rem; } .soft { color: var(--soft); }
.plots { display: flex; flex-wrap: wrap; gap: 1rem 1.5rem; } .plots figure { margin: 0; flex: 0 1 auto; min-width: 0; }
figcaption { color: var(--soft); font-size: .85rem; max-width: 35rem; }
svg { max-width: 100%; height: auto; display: block; } svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
.grid { stroke: var(--rule); stroke-width: 1; } .level { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 4 4; }
path { fill: none; stroke-width: 1.5; } path.too-low, path.at-limit { stroke: var(--bad); } path.spare, path.loss { stroke: var(--line); }
path.fits { stroke: var(--good); } path.unused { stroke: var(--soft); }
circle.too-low, circle.at-limit { fill: var(--bad); } circle.spare, circle.loss { fill: var(--line); } circle.fits { fill: var(--good); } circle.unused { fill: var(--soft); }
rect.too-low, rect.at-limit { fill: var(--bad); } rect.spare { fill: var(--spare); } rect.fits { fill: var(--good); } rect.unused { fill: none; }
rect.outline { fill: none; stroke: var(--ink); }
.badge { display: inline-block; border: 1px solid currentColor; border-radius: 1rem; padding: 0 .6rem; font-size: .85rem; font-weight: 600; vertical-align: middle; }
.too-low.badge, .failed { color: var(--bad); } .at-limit.badge { color: var(--warn); } .fits.badge, .passed { color: var(--good); } .spare.badge { color: var(--spare); } .unused.badge { color: var(--soft); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; margin: .5rem 0; }
th, td { border-bottom: 1px solid var(--rule); padding: .25rem .6rem; text-align: right; white-space: nowrap; } th:first-child, td:first-child { text-align: left; }
th { color: var(--soft); font-weight: 600; } summary { cursor: pointer; margin: .5rem 0; } :focus-visible { outline: 2px solid var(--line); }
`

export function htmlReport(report: DoctorReport, gate: readonly GateResult[]): string {
  const { base, adapters, overlaps, notes } = report
  const title = `Doctor: ${adapters.map(({ name }) => name).join(', ')}`
  return [
    '<!doctype html>',
    '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
    // A report of a stranger's adapter shows the stranger's names: nothing in it may load or run.
    `<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">`,
    `<title>${escapeHtml(title)}</title><style>${STYLE}</style></head><body><main>`,
    `<h1>${escapeHtml(title)}</h1><p class="soft">base ${escapeHtml(base)}</p>`,
    ...(gate.length > 0 ? [gateSection(gate)] : []),
    summarySection(adapters),
    ...adapters.map(adapterSection),
    ...(overlaps.length > 0 ? [overlapSection(overlaps)] : []),
    ...(notes.length > 0
      ? [`<h2>Notes</h2><ul>${notes.map((note) => `<li>${escapeHtml(note)}</li>`).join('')}</ul>`]
      : []),
    '</main></body></html>',
    '',
  ].join('\n')
}

function gateSection(gate: readonly GateResult[]): string {
  const passed = gate.every(({ ok }) => ok)
  const rows = gate.map(({ threshold, subject, bound, found, ok }) => [
    threshold,
    subject,
    String(bound),
    found === null ? 'not measured' : typeof found === 'number' ? figure(found) : String(found),
    ok ? 'passed' : 'FAILED',
  ])
  const word = passed ? '<span class="passed">passed</span>' : '<span class="failed">failed</span>'
  return `<h2>Gate: ${word}</h2>${tableOf('Thresholds of the gate', ['threshold', 'subject', 'bound', 'found', ''], rows)}`
}

function summarySection(adapters: readonly AdapterReport[]): string {
  const rows = adapters.map((adapter) => {
    const { name, verdict, modules, parameters, recommendedParameters, intruders, task, forgetting } = adapter
    return [
      name,
      verdict,
      String(modules.length),
      String(parameters),
      String(recommendedParameters),
      intruders === undefined ? '–' : String(intruders),
      task === undefined ? '–' : `${figure(task.basePerplexity)} → ${figure(task.perplexity)}`,
      forgetting === undefined ? '–' : `${figure(forgetting.basePerplexity)} → ${figure(forgetting.perplexity)}`,
      forgetting === undefined ? '–' : figure(forgetting.meanKl),
    ]
  })
  const head = [
    'adapter',
    'verdict',
    'modules',
    'parameters',
    'recommended',
    'intruders',
    'task perplexity',
    'general perplexity',
    'general KL',
  ]
  return `<h2>Summary</h2>${tableOf('All adapters', head, rows)}`
}

function adapterSection(adapter: AdapterReport): string {
  const { name, verdict, sentence, modules, ladder, recommended } = adapter
  const sorted = [...modules].sort((a, b) => ORDER.indexOf(a.verdict) - ORDER.indexOf(b.verdict) || b.norm - a.norm)
  const plotted = sorted.slice(0, PLOTTED_MODULES)
  const some = plotted.length < modules.length ? `, the first ${plotted.length} of ${modules.length}` : ''
  const figures = [
    figureOf(
      spectrumPlot(name, plotted),
      `Singular values of s·B·A over the largest, a line a module${some}. A line that falls before its end has rank to spare; one that stays up has not.`,
    ),
    ...(ladder === undefined
      ? []
      : [figureOf(ladderPlot(adapter), 'Loss on the task with the leading k directions of every module only.')]),
    figureOf(rankPlot(name, plotted), `Outline: the rank that was trained. Filled: the rank recommended${some}.`),
    ...(modules.some(({ intruders }) => intruders !== undefined)
      ? [
          figureOf(
            intruderPlot(name, plotted),
            `Outline: leading directions looked at. Filled: those that the base did not have${some}.`,
          ),
        ]
      : []),
  ]
  return [
    `<section><h2>${escapeHtml(name)} <span class="badge ${verdict}">${verdict}</span></h2><p>${escapeHtml(sentence)}</p>`,
    `<div class="plots">${figures.join('')}</div>`,
    `<details><summary>All ${modules.length} modules</summary>${moduleTable(name, sorted)}</details>`,
    `<details><summary>The recommended ranks as training takes them</summary><pre>${escapeHtml(JSON.stringify(recommended, null, 2))}</pre></details></section>`,
  ].join('\n')
}

function figureOf(plot: string, caption: string): string {
  return `<figure>${plot}<figcaption>${escapeHtml(caption)}</figcaption></figure>`
}

function spectrumPlot(name: string, modules: readonly ModuleReport[]): string {
  const lines = modules
    .filter(({ values }) => (values[0] ?? 0) > 0)
    .map(({ module, values, verdict }) => ({
      label: module,
      style: verdict,
      points: values.flatMap((value, i) => (value > 0 ? [[i + 1, value / (values[0] as number)] as const] : [])),
    }))
  const counts = ORDER.map(
    (verdict) => [verdict, modules.filter((module) => module.verdict === verdict).length] as const,
  )
  const words = counts.filter(([, count]) => count > 0).map(([verdict, count]) => `${count} ${verdict}`)
  return linePlot({
    title: `Singular spectra of ${name}`,
    description: `${modules.length} modules: ${words.join(', ')}.`,
    x: 'i',
    y: 'σᵢ / σ₁',
    lines,
    yScale: 'log',
    xScale: 'linear',
  })
}

function ladderPlot({ name, ladder, task, modules }: AdapterReport): string {
  const rungs = ladder?.rungs ?? []
  const whole = Math.max(...modules.map(({ r }) => r))
  const points = [...rungs.map(({ k, loss }) => [k, loss] as const), ...(task ? [[whole, task.loss] as const] : [])]
  return linePlot({
    title: `Loss of ${name} by rank`,
    description: points.map(([k, loss]) => `k = ${k}: ${figure(loss)} nats`).join('; '),
    x: 'k',
    y: 'loss, nats a token',
    lines: [{ label: name, style: 'loss', points }],
    levels: task ? [{ label: 'base', y: task.baseLoss }] : [],
    yScale: 'linear',
    xScale: 'log',
  })
}

function rankPlot(name: string, modules: readonly ModuleReport[]): string {
  const bars = modules.map(({ module, r, recommendedRank, verdict }) => ({
    label: module,
    of: r,
    value: recommendedRank,
    style: verdict,
    note: recommendedRank === r ? `${r}` : `${r} → ${recommendedRank} (${verdict})`,
  }))
  const description = bars.map(({ label, note }) => `${label}: ${note}`).join('; ')
  return barPlot(`Recommended ranks of ${name}`, description, bars)
}

function intruderPlot(name: string, modules: readonly ModuleReport[]): string {
  const bars = modules.flatMap(({ module, intruders }) =>
    intruders === undefined
      ? []
      : [
          {
            label: module,
            of: intruders.k,
            value: intruders.count,
            style: 'at-limit',
            note: `${intruders.count} of ${intruders.k}`,
          },
        ],
  )
  const description = bars.map(({ label, note }) => `${label}: ${note}`).join('; ')
  return barPlot(`Intruder dimensions of ${name}`, description, bars)
}

function moduleTable(name: string, modules: readonly ModuleReport[]): string {
  const head = [
    'module',
    'in → out',
    'r',
    'rank',
    '‖ΔW‖',
    'stable rank',
    'effective rank',
    'k 90 %',
    'k 99 %',
    'tail',
    'verdict',
    'recommended',
  ]
  const rows = modules.map((module) => [
    module.module,
    `${module.in} → ${module.out}`,
    String(module.r),
    String(module.rank),
    figure(module.norm),
    figure(module.stableRank),
    figure(module.effectiveRank),
    String(module.k90),
    String(module.k99),
    figure(module.tail),
    module.verdict,
    String(module.recommendedRank),
  ])
  return tableOf(`Modules of ${name}`, head, rows)
}

function overlapSection(overlaps: readonly PairReport[]): string {
  const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length
  const rows = overlaps.map(({ first, second, modules }) => {
    const of = (figureOfModule: (module: PairReport['modules'][number]) => number) =>
      modules.length === 0 ? '–' : figure(mean(modules.map(figureOfModule)))
    return [
      `${first} + ${second}`,
      String(modules.length),
      of(({ writeOverlap }) => writeOverlap),
      of(({ readOverlap }) => readOverlap),
      of(({ deltaCosine }) => deltaCosine),
      of(({ signConflict }) => signConflict),
      of(({ cancelled }) => cancelled),
    ]
  })
  const bars = overlaps.map(({ first, second, modules }) => {
    const value =
      modules.length === 0
        ? 0
        : mean(modules.map(({ writeOverlap, readOverlap }) => Math.max(writeOverlap, readOverlap)))
    return { label: `${first} + ${second}`, of: 1, value, style: 'spare', note: figure(value) }
  })
  const description = bars.map(({ label, note }) => `${label}: ${note}`).join('; ')
  const head = ['pair', 'modules', 'write overlap', 'read overlap', 'cosine', 'sign conflict', 'cancelled']
  return `<h2>Overlap</h2>${figureOf(barPlot('Overlap of pairs', description, bars), 'Mean over modules of the larger of write and read overlap, 0 to 1.')}${tableOf('Pairs of adapters, means over modules', head, rows)}`
}

function tableOf(caption: string, head: readonly string[], rows: readonly (readonly string[])[]): string {
  const cells = (kind: 'th scope="col"' | 'td', row: readonly string[]) =>
    row.map((cell) => `<${kind}>${escapeHtml(cell)}</${kind.slice(0, 2)}>`).join('')
  const body = rows.map((row) => `<tr>${cells('td', row)}</tr>`).join('')
  return `<div class="scroll"><table aria-label="${escapeHtml(caption)}"><thead><tr>${cells('th scope="col"', head)}</tr></thead><tbody>${body}</tbody></table></div>`
}

function figure(value: number): string {
  return String(Number(value.toPrecision(4)))
}
