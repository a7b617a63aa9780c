// A Worker's entry → the one module that workerd runs.
import { build } from 'esbuild'

/** `minify`: as it is deployed (wrangler.toml); else with the names that a trace shows. */
export async function bundleWorker(entry: string, minify = false): Promise<string> {
  const result = await build({
    entryPoints: [entry],
    bundle: true,
    minify,
    write: false,
    format: 'esm',
    target: 'es2024',
    conditions: ['workerd', 'worker', 'import'],
    external: ['cloudflare:*'],
    logLevel: 'silent',
  })
  return result.outputFiles[0]?.text ?? ''
}
