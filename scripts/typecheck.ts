// Type-checks every tsconfig: each tier names the globals it may see, so a Node global in Worker code is a type error.
import { spawnSync } from 'node:child_process'

const PROJECTS = [
  'compiler',
  'trainer',
  'trainer/browser',
  'console',
  'gpu-backend/browser',
  'gateway',
  'test/gateway',
  'tsconfig.node.json',
]

const failed = PROJECTS.filter((project) => spawnSync('tsc', ['-p', project], { stdio: 'inherit' }).status !== 0)
if (failed.length > 0) {
  console.error(`typecheck: ${failed.join(', ')} failed`)
  process.exit(1)
}
