// The scripts of the pages: bundled for a browser, nothing of Node and nothing of the network in them.
import { join } from 'node:path'
import { build } from 'esbuild'

const ROOT = join(import.meta.dirname, '..', '..')
const ENTRIES = { train: join(ROOT, 'console', 'train.ts'), worker: join(ROOT, 'trainer', 'browser', 'worker.ts') }

/** By the name that they are served under. */
export async function bundlePages(): Promise<ReadonlyMap<string, Uint8Array<ArrayBuffer>>> {
  const { outputFiles } = await build({
    entryPoints: ENTRIES,
    outdir: '/',
    bundle: true,
    minify: true,
    format: 'esm',
    platform: 'browser',
    target: 'es2024',
    write: false,
    logLevel: 'silent',
  })
  return new Map(outputFiles.map(({ path, contents }) => [path.split(/[/\\]/).at(-1) ?? '', new Uint8Array(contents)]))
}
