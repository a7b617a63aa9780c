// Compiles the test matrix and has onnx.checker and ONNX Runtime for Python look at every graph of it:
// `PYTHON=<python with onnx and onnxruntime> node test/parity/check-artifacts.ts` writes oracle/artifacts.json anew.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { stageFolder } from '../../runtime/disk.ts'
import { compileCase, listCases, mayBeRefused, ROOT } from './artifact-matrix.ts'

interface Verdict {
  readonly checker: string
  readonly onnxruntime: string
}

const scratch = mkdtempSync(join(tmpdir(), 'sidepath-check-'))
try {
  const cases = []
  for (const [at, one] of listCases().entries()) {
    const staged = await stageFolder(join(scratch, String(at)))
    cases.push({ at, one, made: await compileCase(one, staged) })
    await staged.commit()
  }
  // What another tool wrote may not be what onnx.checker takes; surgery must leave its verdict as it was.
  const bases = [...new Set(cases.flatMap(({ one }) => (one.isExport ? [one.base] : [])))]
  for (const [at, base] of bases.entries()) {
    writeFileSync(join(scratch, `original-${at}.onnx`), gunzipSync(readFileSync(base)))
  }
  const script = join(import.meta.dirname, 'check-artifacts.py')
  const said = execFileSync(process.env.PYTHON ?? 'python3', [script, scratch], { encoding: 'utf8' })
  const { versions, graphs } = JSON.parse(said) as { versions: object; graphs: Record<string, Verdict> }
  const results = cases.map(({ at, one, made }) => {
    const { name } = one
    if ('refused' in made) return { name, ...made }
    const looked = made.graphs.map((graph) => ({ ...graph, ...graphs[`${at}/${graph.path}`] }))
    return { name, graphs: looked }
  })
  const exports = Object.fromEntries(
    bases.map((base, at) => [relative(ROOT, base), graphs[`original-${at}.onnx`] as Verdict]),
  )
  const text = `${JSON.stringify({ versions, exports, results }, null, 1)}\n`
  writeFileSync(join(import.meta.dirname, 'oracle', 'artifacts.json'), text)
  const verdicts = cases.flatMap(({ made, at, one }) =>
    ('refused' in made ? [] : made.graphs).map(({ path }) => ({
      ...(graphs[`${at}/${path}`] as Verdict),
      wanted: exports[relative(ROOT, one.base)]?.checker ?? 'ok',
    })),
  )
  const bad = verdicts.filter(({ checker, onnxruntime, wanted }) => checker !== wanted || onnxruntime !== 'ok')
  const refused = results.filter((result) => 'refused' in result).length
  process.stdout.write(
    `${results.length} cases, ${refused} refused by the compiler; ${verdicts.length} graphs, ${bad.length} not accepted\n`,
  )
  for (const verdict of bad) process.stdout.write(`${JSON.stringify(verdict)}\n`)
  // Whatever else is refused would be left out in silence.
  const unmade = cases.filter(({ made, one }) => 'refused' in made && !mayBeRefused(one))
  for (const { one, made } of unmade) process.stdout.write(`${one.name}: ${JSON.stringify(made)}\n`)
  if (bad.length + unmade.length > 0) process.exitCode = 1
} finally {
  rmSync(scratch, { recursive: true, force: true })
}
