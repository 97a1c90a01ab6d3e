/* The page's style sheet. Colours of models are those of Okabe and Ito (2008), which people with any kind of colour blindness tell
 * apart, made a little darker on white and lighter on black; markers, dashes and names say the same without colour. */
#include "runtime-check/page/page_view.h"

#define LIGHT                                                                                                \
    "--bg:#fff;--ink:#1a1e23;--soft:#5a646e;--rule:#cfd6dc;--grid:#e8ecef;--band:#f3f5f7;"                   \
    "--c0:#0a6fb5;--c1:#d05500;--c2:#00875f;--c3:#b04c8f;--c4:#a37200;--c5:#2b9fd4;--c6:#77818b;"
#define DARK                                                                                                 \
    "--bg:#14171b;--ink:#e9ecef;--soft:#a3adb7;--rule:#3c444d;--grid:#262c33;--band:#1d2228;"                \
    "--c0:#4f9fe8;--c1:#ff8b4a;--c2:#35c497;--c3:#e391c8;--c4:#e2b546;--c5:#93d6f6;--c6:#9aa4ae;"

static const char *const sheet[] = {
    "<style>\n:root{color-scheme:light dark;" LIGHT "}\n",
    "@media (prefers-color-scheme:dark){:root{" DARK "}}\n",
    "*{box-sizing:border-box}\n"
    "body{margin:0;background:var(--bg);color:var(--ink);"
    "font:16px/1.5 system-ui,-apple-system,\"Segoe UI\",Roboto,\"Helvetica Neue\",Arial,sans-serif}\n"
    "main{max-width:960px;margin:0 auto;padding:2.5rem 1.25rem 3rem}\n"
    "h1{font-size:1.9rem;line-height:1.2;margin:0 0 .75rem;letter-spacing:-.01em;overflow-wrap:anywhere}\n"
    "h2{font-size:1.2rem;line-height:1.3;margin:0 0 .35rem}\n"
    "p{margin:0 0 .6rem;max-width:46rem}\n"
    "figcaption p,section p{color:var(--soft);font-size:.92rem;overflow-wrap:anywhere}\n"
    ".note{margin:.5rem 0 0;font-size:.82rem;color:var(--soft);max-width:none}\n"
    "strong{color:var(--ink);font-weight:600}\n"
    "figure,section{margin:3rem 0 0}\n"
    "dl.facts{display:flex;flex-wrap:wrap;gap:.5rem 2.25rem;margin:1.1rem 0 0;padding:.8rem 0;"
    "border-top:1px solid var(--rule);border-bottom:1px solid var(--rule)}\n"
    "dl.facts dt{font-size:.78rem;color:var(--soft)}\n"
    "dl.facts dd{margin:0;font-weight:600;overflow-wrap:anywhere}\n",
    "figure>svg{display:block;width:100%;height:auto;margin-top:.75rem;"
    "font-family:inherit;font-variant-numeric:tabular-nums}\n"
    "svg.narrow{display:none}\n"
    "svg text{fill:var(--ink)}\n"
    "text.tick,text.head{fill:var(--soft)}\n"
    "text.name{paint-order:stroke;stroke:var(--bg);stroke-width:3px;stroke-linejoin:round;"
    "unicode-bidi:isolate}\n"
    "path{fill:none}\n"
    ".band{fill:var(--band)}\n"
    ".grid{stroke:var(--grid)}\n"
    ".zero{stroke:var(--soft);stroke-dasharray:1 3}\n"
    ".front{stroke:var(--ink);stroke-width:1.6;stroke-opacity:.75;stroke-linejoin:round}\n"
    ".family{stroke:var(--c);stroke-opacity:.45}\n"
    ".base .size{stroke:var(--soft);stroke-dasharray:5 4}\n"
    ".base circle,circle.base{fill:var(--bg);stroke:var(--ink);stroke-width:2}\n"
    ".base text{fill:var(--soft)}\n",
    ".k0{--c:var(--c0)}.k1{--c:var(--c1)}.k2{--c:var(--c2)}.k3{--c:var(--c3)}.k4{--c:var(--c4)}"
    ".k5{--c:var(--c5)}.k6{--c:var(--c6)}\n"
    ".mark{fill:var(--c);stroke:var(--bg);stroke-width:1.2;paint-order:stroke}\n"
    ".hollow .mark{fill:var(--bg);stroke:var(--c);stroke-width:1.8;paint-order:normal}\n"
    ".line{stroke:var(--c);stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}\n"
    ".hollow .line{stroke-dasharray:6 4}\n"
    ".touch{stroke:#000;stroke-opacity:0;stroke-width:12;pointer-events:stroke}\n"
    ".bar{stroke:var(--c);stroke-width:1.6}\n"
    ".leader{stroke:var(--c);stroke-opacity:.6}\n"
    ".dim .mark,.dim .bar{opacity:.5}\n"
    ".dim text.name{fill:var(--soft)}\n"
    "@media (hover:hover){svg:has(.model:hover) .model:not(:hover){opacity:.2}"
    ".model:hover .line{stroke-width:3}.model:hover text.name{font-weight:600}}\n",
    ".scroll{overflow-x:auto;margin-top:.75rem;border-top:1px solid var(--rule);"
    "border-bottom:1px solid var(--rule)}\n"
    "table{border-collapse:separate;border-spacing:0;font-size:.86rem;font-variant-numeric:tabular-nums;"
    "white-space:nowrap}\n"
    "th,td{padding:.4rem .75rem;text-align:right;vertical-align:top}\n"
    "tbody th,tbody td{border-top:1px solid var(--grid)}\n"
    "thead th{font-weight:500;color:var(--soft);vertical-align:bottom;border-bottom:1px solid var(--rule)}\n"
    "th.model{position:sticky;left:0;z-index:1;background:var(--bg);text-align:left;"
    "min-width:8rem;max-width:14rem;white-space:normal}\n"
    "tbody th{font-weight:600}\n"
    "tbody th span{overflow-wrap:anywhere;unicode-bidi:isolate}\n"
    "tbody tr:hover>*{background:var(--band)}\n"
    "td small,tbody th "
    "small{display:block;color:var(--soft);font-size:.92em;font-weight:400;line-height:1.3}\n"
    "tbody th{padding-left:2rem}\n"
    "svg.key{position:absolute;left:.7rem;top:.72rem;width:14px;height:14px;overflow:visible}\n"
    "thead .group{text-align:left;border-bottom:0;padding-bottom:0;color:var(--ink)}\n"
    ".begins{border-left:1px solid var(--grid)}\n",
    "footer{margin-top:3rem;padding-top:1rem;border-top:1px solid var(--rule);font-size:.86rem;"
    "color:var(--soft)}\n"
    "footer h2{color:var(--ink)}\n"
    "footer dl{display:grid;grid-template-columns:max-content 1fr;gap:.35rem 1.25rem;margin:0 0 1rem}\n"
    "footer dt{color:var(--ink);font-weight:600}\nfooter dd{margin:0;max-width:44rem}\n"
    "@media (max-width:680px){main{padding:1.5rem 1rem 2rem}h1{font-size:1.5rem}"
    "svg.wide{display:none}svg.narrow{display:block;max-width:520px;margin-left:auto;margin-right:auto}"
    "figure,section{margin-top:2.25rem}th.model{min-width:6.5rem;max-width:8.5rem}"
    "th,td{padding:.4rem .55rem}tbody th{padding-left:1.7rem}svg.key{left:.4rem}"
    "footer dl{grid-template-columns:1fr;gap:0}footer dd{margin-bottom:.5rem}}\n"
    "@media print{:root{" LIGHT "}main{max-width:none;padding:0}figure{break-inside:avoid}"
    "svg.wide{display:block}svg.narrow{display:none}"
    "#table{page:wide;break-before:page}@page wide{size:landscape;margin:12mm}"
    ".scroll{overflow:visible}table{font-size:6.4pt}th,td{padding:.2em .4em}th.model{position:relative}"
    "tbody th.model{padding-left:2.4em}svg.key{left:.6em;top:.35em;width:1.3em;height:1.3em}}\n"
    "</style>\n",
};

void page_style_write(struct markup *markup)
{
    for (size_t i = 0; i < sizeof sheet / sizeof *sheet; i++)
        markup_put(markup, sheet[i]);
}
