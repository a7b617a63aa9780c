// Writes the tables of measured results into README.md from bench/results/*.json; with --check, fails if it would change.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'

const RESULTS = 'bench/results'
const BEGIN = '<!-- results: written by `npm run readme` -->'
const END = '<!-- /results -->'

const Result = z.object({
  command: z.string(),
  machine: z.string(),
  rows: z.array(z.object({ what: z.string(), value: z.string() })),
})

const files = readdirSync(RESULTS).filter((name) => name.endsWith('.json'))
const results = files.sort().map((name) => Result.parse(JSON.parse(readFileSync(join(RESULTS, name), 'utf8'))))
const tables = results.map(({ rows, command }) =>
  [
    `\`${command}\``,
    '',
    '| what | measured |',
    '|---|---|',
    ...rows.map(({ what, value }) => `| ${what} | ${value} |`),
    '',
  ].join('\n'),
)
const machines = [...new Set(results.map(({ machine }) => machine))].join('; ')
const table = [BEGIN, `Machine: ${machines}.`, '', ...tables, END].join('\n')

const before = readFileSync('README.md', 'utf8')
const from = before.indexOf(BEGIN)
const to = before.indexOf(END)
if (from < 0 || to < 0) throw new Error(`README.md lacks "${BEGIN}" … "${END}"`)
const after = before.slice(0, from) + table + before.slice(to + END.length)
if (process.argv.includes('--check') && after !== before) {
  console.error('README.md: the results table is not what bench/results says; run `npm run readme`')
  process.exit(1)
}
writeFileSync('README.md', after)
