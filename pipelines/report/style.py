"""The looks of a report, light and dark. Plots and diagrams take their colours from the same variables."""

from typing import Final

COLOURS: Final = ("ink", "faint", "line", "grey", "teal", "blue", "red", "amber")  # variables that plots may use

STYLE: Final = """
:root { color-scheme: light dark;
  --page: #f5f6f8; --card: #ffffff; --ink: #1b2330; --faint: #5d6778; --line: #dfe3ea;
  --grey: #a9b4c4; --teal: #12908a; --blue: #2f6fde; --red: #d0353c; --amber: #b7791f; --good: #1c8a4d;
  --good-back: #e3f5ea; --bad-back: #fde8e8; --warn-back: #fdf3dc; }
@media (prefers-color-scheme: dark) { :root {
  --page: #10141b; --card: #181e28; --ink: #e4e9f1; --faint: #98a4b7; --line: #2c3646;
  --grey: #5e6b80; --teal: #2fb5ac; --blue: #6c9ff5; --red: #f0747a; --amber: #e0ab52; --good: #55c588;
  --good-back: #16301f; --bad-back: #3a1b1e; --warn-back: #352a14; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); overflow-wrap: anywhere;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
main, header, footer { max-width: 1100px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 28px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 17px; margin: 0 0 12px; }
h3 { font-size: 14px; margin: 18px 0 6px; }
p { margin: 0 0 10px; }
.faint, footer, figcaption { color: var(--faint); font-size: 13px; }
.verdict { margin: 16px 0; padding: 12px 16px; border-radius: 8px; border-left: 5px solid; }
.verdict strong { font-size: 17px; }
.verdict p { margin: 4px 0 0; }
.good { background: var(--good-back); border-color: var(--good); }
.bad { background: var(--bad-back); border-color: var(--red); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 10px; margin: 0 0 18px;
  padding: 0; }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; }
.tiles dt { color: var(--faint); font-size: 13px; }
.tiles dd { margin: 0; font-size: 21px; font-weight: 600; font-variant-numeric: tabular-nums; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 18px 20px;
  margin-bottom: 18px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; color: var(--faint); font-weight: 500; font-size: 13px; white-space: nowrap; }
th, td { padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; unicode-bidi: isolate; }
tbody tr:last-child td { border-bottom: 0; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code, pre { font: 13px/1.45 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { overflow-x: auto; white-space: pre-wrap; margin: 0; }
svg { display: block; width: 100%; height: auto; min-width: 620px; }
svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
figure { margin: 0; }
.mark { font-weight: 600; white-space: nowrap; }
.mark.passed { color: var(--good); }
.mark.failed { color: var(--red); }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 10px; }
.example { display: flex; gap: 12px; border: 1px solid var(--line); border-radius: 8px; padding: 10px; }
.example > div { min-width: 0; font-size: 13px; }
.picture { width: 72px; height: 72px; flex: none; object-fit: contain; border-radius: 6px; background: var(--page);
  border: 1px solid var(--line); }
.blank { display: grid; place-items: center; color: var(--faint); font-size: 11px; text-align: center; }
.near { display: grid; grid-template-columns: repeat(6, minmax(120px, 1fr)); gap: 10px; padding: 14px 0;
  border-bottom: 1px solid var(--line); }
.near:last-child { border-bottom: 0; padding-bottom: 0; }
.near > div { font-size: 12px; line-height: 1.35; min-width: 0; unicode-bidi: isolate; }
.near .picture { width: 96px; height: 96px; margin-bottom: 6px; }
.near .asked { border-right: 2px solid var(--line); padding-right: 8px; }
.score { color: var(--faint); font-variant-numeric: tabular-nums; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(340px, 1fr)); gap: 8px 32px; }
summary { cursor: pointer; color: var(--faint); padding: 6px 0; }
:focus-visible { outline: 2px solid var(--blue); outline-offset: 2px; }
@media print { body { background: none; } section { break-inside: avoid; } }
"""
